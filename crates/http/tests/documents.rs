//! The checked-in documents are what the tables say. `UPDATE_DOCS=1 cargo test --test documents` writes them anew.

use std::path::Path;

use api::openapi::{self, Page};
use api::{Code, VERBS};
use serde_json::Value;

fn compare(name: &str, generated: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name);
    let written = std::env::var_os("UPDATE_DOCS").map(|_| std::fs::write(&path, generated));
    assert!(written.is_none_or(|result| result.is_ok()), "cannot write docs/{name}");
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(checked_in == generated, "docs/{name} is stale: UPDATE_DOCS=1 cargo test --test documents");
}

fn document() -> Value {
    let page = |page: &http::Page| Page {
        name: page.name,
        operation: page.operation,
        summary: page.summary,
        media_type: page.media_type,
        header: page.header,
        codes: page.codes,
    };
    openapi::document(&http::PAGES.iter().map(page).collect::<Vec<_>>())
}

#[test]
fn the_openapi_document() {
    compare("openapi.json", &format!("{}\n", serde_json::to_string_pretty(&document()).unwrap()));
}

#[test]
fn the_table_of_codes() {
    let mut text = String::from(
        "# Error codes\n\n\
         Generated from `crates/api/src/error.rs`; a test compares. Every failed call carries its code in the header `X-Error-Code`\n\
         and, for requests that accept `application/problem+json`, in the member `code` of the body. Codes never change their meaning;\n\
         new versions may add some.\n\n\
         Over D-Bus, a failed call is an error whose name is `{errors}` and the name below; its text is the chain, a line each.\n\n\
         | status | code | D-Bus | meaning |\n|---|---|---|---|\n",
    );
    text = text.replace("{errors}", api::dbus::ERRORS);
    for code in Code::ALL {
        let name = code.dbus_name();
        let name = name.strip_prefix(api::dbus::ERRORS).unwrap();
        text += &format!("| {} | `{code}` | `{name}` | {} |\n", code.status(), code.meaning());
    }
    compare("errors.md", &text);
}

#[test]
fn every_verb_is_an_operation_with_its_errors() {
    let document = document();
    for verb in VERBS {
        let method = verb.method.to_string().to_lowercase();
        let operation = &document["paths"][format!("/{}", verb.name)][method];
        assert!(operation["operationId"].is_string(), "{}", verb.name);
        assert_eq!(operation["requestBody"].is_object(), verb.has_body, "{}", verb.name);
        for code in verb.codes() {
            let target = operation["responses"][code.status().to_string()]["$ref"].as_str().unwrap();
            let content = &document.pointer(target.strip_prefix('#').unwrap()).unwrap()["content"];
            for media_type in ["application/json", "application/problem+json"] {
                assert!(content[media_type]["schema"]["$ref"].is_string(), "{} {code}", verb.name);
            }
        }
    }
}

/// Every reference leads somewhere, and nothing lies about unused.
#[test]
fn references_and_schemas_match() {
    fn references(value: &Value, found: &mut std::collections::BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").map(|target| target.as_str().unwrap().to_owned()));
                object.values().for_each(|inner| references(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = std::collections::BTreeSet::new();
    references(&document, &mut found);
    let names = |kind: &str| {
        let components = document["components"][kind].as_object().unwrap();
        components.keys().map(|name| format!("#/components/{kind}/{name}")).collect::<Vec<_>>()
    };
    assert_eq!(found, names("schemas").into_iter().chain(names("responses")).collect());
}
