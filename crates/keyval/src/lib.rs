//! A serde format for the `key=value` option strings of the command line (`spec/config.md` §0).
