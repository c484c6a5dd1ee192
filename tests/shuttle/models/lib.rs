//! Models of the engine, in `tests/`.
