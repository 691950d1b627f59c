"""Policy: pure judgement of what a call would do. (policy, facts) -> verdict, no I/O, no clock."""
