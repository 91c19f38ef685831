"""Many runs compared: sweeps, published claims, pools of runs."""
