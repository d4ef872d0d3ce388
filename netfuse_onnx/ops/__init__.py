"""Facts about operators: schemas, shape functions, which of their inputs steer shapes."""
