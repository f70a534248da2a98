//! The OpenAPI 3.0 document, generated from the command table, the wire types and the table of codes.
//!
//! The result is checked in as `docs/openapi.json`; a test of the REST door compares the two, and the door serves the file. 3.0.3
//! because more generators of clients take it than 3.1.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::dbus::pascal_case;
use crate::error::Problem;
use crate::schema::Shape;
use crate::table::SHAPES;
use crate::{Code, EventRecord, ROOT, State, VERBS, Verb};

/// A path of the REST door that is no verb.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// What follows [`ROOT`].
    pub name: &'static str,
    /// The operation's id.
    pub operation: &'static str,
    /// What it is for.
    pub summary: &'static str,
    /// The media type of what it answers with.
    pub media_type: &'static str,
    /// A request header it looks at, and why.
    pub header: Option<(&'static str, &'static str)>,
    /// What it may fail with.
    pub codes: &'static [Code],
}

const ABOUT: &str = "Runs one virtual machine. Served over a UNIX stream socket; the host part of URLs means nothing. \
    Fields that nobody knows are accepted and reported in a `Warning` header. Bodies may have 4 MiB. Errors are an array of texts, \
    outermost first, or an RFC 9457 document for requests that accept `application/problem+json`; the header `X-Error-Code` \
    carries a stable code.";

/// The document for all verbs and `pages`.
pub fn document(pages: &[Page]) -> Value {
    let settings = SchemaSettings::openapi3();
    let mut generator = settings.into_generator();
    let mut failures = Failures::default();
    let mut paths = Map::new();
    for (verb, shape) in VERBS.iter().zip(SHAPES) {
        let method = verb.method.to_string().to_lowercase();
        let operation = verb_operation(verb, shape, &mut generator, &mut failures);
        let mut path = Map::new();
        if verb.may_be_put() {
            let id = format!("{}Put", operation_id(verb.name));
            path.insert("put".into(), deprecated(operation.clone(), &id));
        }
        path.insert(method, operation);
        paths.insert(format!("/{}", verb.name), path.into());
    }
    for page in pages {
        paths.insert(
            format!("/{}", page.name),
            json!({ "get": page_operation(page, &mut generator, &mut failures) }),
        );
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Cloud Hypervisor API",
            "description": ABOUT,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "servers": [{ "url": format!("http://localhost{}", ROOT.trim_end_matches('/')) }],
        "tags": [
            { "name": "vm", "description": "The virtual machine." },
            { "name": "vmm", "description": "The process that runs it." },
        ],
        "paths": paths,
        "components": { "responses": failures.0, "schemas": schemas(generator) },
    })
}

/// All types that operations refer to, and those of errors and events.
fn schemas(mut generator: SchemaGenerator) -> Map<String, Value> {
    generator.subschema_for::<Problem>();
    let mut schemas = generator.take_definitions(true);
    schemas.insert(
        "Error".into(),
        json!({
            "type": "array",
            "description": "Why a call failed: texts, outermost first.",
            "items": { "type": "string" },
            "minItems": 1,
            "example": ["Error from API", "The VM could not boot", "VM is not created"],
        }),
    );
    schemas.values_mut().for_each(tidy);
    schemas
}

fn verb_operation(
    verb: &Verb,
    shape: &Shape,
    generator: &mut SchemaGenerator,
    failures: &mut Failures,
) -> Value {
    let mut responses = Map::new();
    for (status, schema) in (shape.replies)(generator) {
        responses.insert(status.to_string(), success(status, schema, verb.has_body));
    }
    responses.extend(failures.of(&verb.codes()));
    let mut operation = json!({
        "operationId": operation_id(verb.name),
        "tags": [verb.name.split('.').next()],
        "summary": verb.summary.trim(),
        "description": legal(verb),
        "responses": responses,
    });
    if let (Some(schema), Some(operation)) = ((shape.body)(generator), operation.as_object_mut()) {
        let body = json!({ "required": true, "content": { "application/json": { "schema": schema } } });
        operation.insert("requestBody".into(), body);
    }
    operation
}

fn page_operation(page: &Page, generator: &mut SchemaGenerator, failures: &mut Failures) -> Value {
    let mut responses = failures.of(page.codes);
    let schema = match page.media_type {
        "application/json" => json!({ "type": "object" }),
        _ => json!({ "type": "string" }),
    };
    let mut media = json!({ "schema": schema });
    if let (Some(media), "text/event-stream") = (media.as_object_mut(), page.media_type) {
        // 3.0 has no word for the shape of each event.
        media.insert("x-event-data".into(), generator.subschema_for::<EventRecord>().into());
    }
    let media_type = page.media_type.split(';').next().unwrap_or_default();
    let content = json!({ media_type: media });
    responses.insert("200".into(), json!({ "description": "As asked for.", "content": content }));
    let header = |(name, about)| {
        let schema = json!({ "type": "integer", "format": "uint64", "minimum": 0 });
        json!({ "name": name, "in": "header", "description": about, "schema": schema })
    };
    json!({
        "operationId": page.operation,
        "tags": ["vmm"],
        "summary": page.summary,
        "parameters": page.header.map(header).into_iter().collect::<Vec<_>>(),
        "responses": responses,
    })
}

/// An operation under a method that clients should not use any more.
fn deprecated(mut operation: Value, id: &str) -> Value {
    if let Some(operation) = operation.as_object_mut() {
        operation.insert("operationId".into(), id.into());
        operation.insert("deprecated".into(), true.into());
    }
    operation
}

/// `vm.add-disk` as `vmAddDisk`.
fn operation_id(name: &str) -> String {
    let mut id = pascal_case(name);
    if let Some(first) = id.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    id
}

fn legal(verb: &Verb) -> String {
    let states: Vec<_> =
        State::ALL.iter().filter(|state| verb.admit(**state).is_ok()).map(|state| state.text()).collect();
    if states.len() == State::ALL.len() {
        return "Legal in every state.".into();
    }
    format!("Legal while the VM is: {}.", states.join(", "))
}

fn success(status: u16, schema: Option<Schema>, has_body: bool) -> Value {
    let description = match (status, &schema) {
        (204, _) => "Done.",
        (_, Some(_)) => "Done; the body says more.",
        (_, None) => "Done; the body is empty.",
    };
    let mut response = Map::new();
    response.insert("description".into(), description.into());
    if let Some(schema) = schema {
        response.insert("content".into(), json!({ "application/json": { "schema": schema } }));
    }
    if has_body {
        let about = "Names fields of the body that nobody knows.";
        response.insert("headers".into(), json!({ "Warning": header(about) }));
    }
    response.into()
}

/// The responses of failed calls. Many verbs share them, and the document would be twice as long if each told them anew.
#[derive(Default)]
struct Failures(Map<String, Value>);

impl Failures {
    /// References to one response for each status among `codes`.
    fn of(&mut self, codes: &[Code]) -> Map<String, Value> {
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        for code in codes {
            by_status.entry(code.status()).or_default().push(*code);
        }
        let mut references = Map::new();
        for (status, codes) in by_status {
            let name: String = codes.iter().map(|code| format!("{code:?}")).collect();
            references
                .insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{name}") }));
            self.0.entry(name).or_insert_with(|| failure(status, &codes));
        }
        references
    }
}

fn failure(status: u16, codes: &[Code]) -> Value {
    let lines: Vec<_> = codes.iter().map(|code| format!("`{code}`: {}", code.meaning())).collect();
    let mut headers = Map::new();
    headers.insert("X-Error-Code".into(), header("A stable name of the failure."));
    if status == 405 {
        headers.insert("Allow".into(), header("The methods that the path answers to."));
    }
    json!({
        "description": lines.join("\n\n"),
        "headers": headers,
        "content": {
            "application/json": { "schema": { "$ref": "#/components/schemas/Error" } },
            "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } },
        },
    })
}

fn header(about: &str) -> Value {
    json!({ "description": about, "schema": { "type": "string" } })
}

/// Makes of a derived schema what readers and generators expect.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.remove("title");
            fold_words(object);
            tell_object_default(object);
            bound_number(object);
            spell_out_address(object);
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = plain(text);
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// An enumeration whose words are documented comes as `oneOf` with one word each; clients want one `enum`.
fn fold_words(object: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = object.get("oneOf") else { return };
    let word =
        |variant: &Value| variant.get("enum")?.as_array().filter(|words| words.len() == 1)?.first().cloned();
    let Some(words) = variants.iter().map(word).collect::<Option<Vec<_>>>() else { return };
    let line = |variant: &Value| {
        Some(format!("* `{}`: {}", word(variant)?.as_str()?, variant.get("description")?.as_str()?))
    };
    let lines: Vec<_> = variants.iter().filter_map(line).collect();
    let about = object.get("description").and_then(Value::as_str).unwrap_or_default();
    let about = format!("{about}\n\n{}", lines.join("\n"));
    object.remove("oneOf");
    object.insert("description".into(), about.into());
    object.insert("type".into(), "string".into());
    object.insert("enum".into(), words.into());
}

/// Numbers that do not fit are refused, so the schema says so. Small ones are bounded already.
fn bound_number(schema: &mut Map<String, Value>) {
    let (format, least, most) = match schema.get("format").and_then(Value::as_str) {
        // usize: as wide as it gets.
        Some("uint" | "uint64") => ("uint64", 0, u64::MAX),
        Some("uint32") => ("uint32", 0, u32::MAX.into()),
        Some("int32") => ("int32", i32::MIN.into(), i32::MAX.unsigned_abs().into()),
        Some("int64") => ("int64", i64::MIN, i64::MAX.unsigned_abs()),
        _ => return,
    };
    schema.insert("format".into(), format.into());
    schema.entry("minimum").or_insert(least.into());
    schema.entry("maximum").or_insert(most.into());
}

/// The format `ip` is nobody's but schemars': OpenAPI has one for each version of the protocol.
fn spell_out_address(schema: &mut Map<String, Value>) {
    if schema.get("format").and_then(Value::as_str) != Some("ip") {
        return;
    }
    schema.remove("format");
    schema.remove("type");
    let mut versions = ["ipv4", "ipv6"].map(|format| json!({ "type": "string", "format": format })).to_vec();
    if schema.remove("nullable").is_some() {
        versions.push(json!({ "enum": [null], "nullable": true }));
    }
    schema.insert("anyOf".into(), versions.into());
}

/// Defaults that are objects are told in words: generators of clients cannot make them, and one refuses the whole type then.
fn tell_object_default(schema: &mut Map<String, Value>) {
    if !schema.get("default").is_some_and(Value::is_object) {
        return;
    }
    let default = schema.remove("default").unwrap_or_default();
    let about = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    let about = format!("{about} Default: `{default}`.");
    schema.insert("description".into(), about.trim().into());
}

/// Rust's links in a doc comment as plain text.
fn plain(text: &str) -> String {
    text.replace("[`", "`").replace("`]", "`").replace("::", ".")
}
