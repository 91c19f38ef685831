"""``python stopped.py SIGNAL WHEN NUMBER ...``: ``rwp-edu ...``, which sends itself a signal at one moment, the same on every machine.

WHEN is ``update`` (as update NUMBER begins), ``checkpoint`` (half of the one of update NUMBER is written) or ``row`` (a sweep has kept
NUMBER groups). Of several workers rank 1 is stopped, and not once more after a restart.
"""

from __future__ import annotations

import os
import signal
import sys


def arm(how: signal.Signals, when: str, number: int) -> None:
    def stop() -> None:
        os.kill(os.getpid(), how)

    if when == "update":
        from rwp_edu.training import Run

        step = Run.step
        Run.step = lambda run: step(run) if run.updates != number else stop()
    elif when == "checkpoint":
        import io

        import torch

        save = torch.save

        def half(state, file):
            if state.get("updates") != number:
                return save(state, file)
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            stop()

        torch.save = half
    else:
        from rwp_edu.experiments.sweep import work

        whole, kept = work.whole, []

        def keep(*given):
            whole(*given)
            kept.append(given)
            if len(kept) == number:
                stop()

        work.whole = keep


if __name__ == "__main__":
    from rwp_edu.cli import main

    how, when, number, *arguments = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background deaf to Ctrl-C
    if os.environ.get("RANK", "1") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        arm(signal.Signals[f"SIG{how}"], when, int(number))
    sys.exit(main(arguments))
