//! The style of this project, as tests.
