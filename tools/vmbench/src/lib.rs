//! What `cargo xtask bench` knows about its measurements: what they are called, how they are taken, and the table of their samples.
//! The program of the same name takes them; `xtask` builds the images, runs it on the host and in the lab, and shows the table.

pub mod comparison;
mod quantity;
pub mod results;
pub mod table;
