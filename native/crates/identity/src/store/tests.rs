//! Rotation, priority and the sealed descriptor, with virtual time.
