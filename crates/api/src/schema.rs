//! The types behind each verb, for the generator of the OpenAPI document.

use schemars::{Schema, SchemaGenerator};

use crate::{Body, Reply};

/// The statuses a call may succeed with and the shape of their bodies.
pub(crate) type Successes = Vec<(u16, Option<Schema>)>;

/// What a verb takes and gives.
pub(crate) struct Shape {
    /// The body's shape, if it has one.
    pub(crate) body: fn(&mut SchemaGenerator) -> Option<Schema>,
    /// The statuses of success and the shape of their bodies.
    pub(crate) replies: fn(&mut SchemaGenerator) -> Successes,
}

impl Shape {
    pub(crate) const fn of<B: Body, R: Reply>() -> Self {
        Self { body: B::schema, replies: R::schemas }
    }
}
