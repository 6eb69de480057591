"""What a customization or an evaluation is: its spec, its result and its progress."""
