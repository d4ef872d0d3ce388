"""What rules write graphs with: the emitter, conversions between layouts, joins."""
