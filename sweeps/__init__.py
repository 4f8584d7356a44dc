"""Many runs that differ by chosen keys: what they try, who does which, what came of them."""
