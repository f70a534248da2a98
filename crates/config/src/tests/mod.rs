//! Tests over every rule.
