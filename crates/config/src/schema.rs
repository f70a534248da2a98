//! JSON schemas of the wire types that serde's attributes do not describe by themselves: those read by hand.
//!
//! Only compiled for the generator of the OpenAPI document.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use crate::mac::MacAddr;
use crate::pci::{PciCommon, Placed};

impl JsonSchema for MacAddr {
    fn schema_name() -> Cow<'static, str> {
        "MacAddr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "An Ethernet address.",
            "pattern": "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$",
            "example": "2e:89:a8:e4:52:11",
        })
    }
}

/// One flat object, named as clients know the section: `DiskConfig` for `Placed<Disk>`.
impl<T: JsonSchema> JsonSchema for Placed<T> {
    fn schema_name() -> Cow<'static, str> {
        match T::schema_name().as_ref() {
            // The console is a serial port's back end with a place on the bus.
            "SerialConfig" => "ConsoleConfig".into(),
            own => format!("{own}Config").into(),
        }
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut own = T::json_schema(generator);
        let mut common = PciCommon::json_schema(generator);
        let Some(Value::Object(common)) = common.remove("properties") else { return own };
        match own.ensure_object().entry("properties").or_insert_with(|| Value::Object(Default::default())) {
            Value::Object(properties) => properties.extend(common),
            _ => return own,
        }
        own
    }
}
