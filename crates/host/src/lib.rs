//! What the host offers, wrapped: knows nothing of virtual machines.
