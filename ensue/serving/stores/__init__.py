"""History stores: where events live, in a file of this machine, in Redis or in PostgreSQL."""
