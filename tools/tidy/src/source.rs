//! Rules that one source file can break. The file is parsed (`syn`), not scanned, so that a brace in a string or an
//! `unwrap` in a comment changes nothing.

use crate::rules;
use proc_macro2::{Span, TokenStream, TokenTree};
use std::path::{Component, Path};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, Expr, ImplItemFn, ItemFn, ItemImpl, ItemMod, Macro, Signature, TraitItemFn};

/// What `text`, the file at `path` (relative to the workspace), breaks; one line each.
pub fn check(path: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > rules::MAX_FILE_LINES {
        faults.push(format!("{}: {lines} lines, more than {}", path.display(), rules::MAX_FILE_LINES));
    }
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(e) => {
            faults.push(format!("{}: does not parse: {e}", path.display()));
            return faults;
        }
    };
    let mut visitor = Visitor {
        path,
        lines: text.lines().collect(),
        unsafe_allowed: rules::UNSAFE_CRATES.contains(&crate_name(path)),
        spawning_allowed: rules::SPAWNING_CRATES.contains(&crate_name(path)),
        test: is_test_file(path) || file.attrs.iter().any(is_test_attribute),
        tool: is_tool(path),
        faults,
    };
    visitor.visit_file(&file);
    visitor.faults
}

/// `crates/NAME/...` or `tools/NAME/...` to NAME.
fn crate_name(path: &Path) -> &str {
    path.iter().nth(1).and_then(|s| s.to_str()).unwrap_or_default()
}

fn is_tool(path: &Path) -> bool {
    matches!(path.components().next(), Some(Component::Normal(first)) if first != "crates")
}

/// Whole files of tests: `tests.rs`, `tests/…`, `benches/…`, and build scripts, which never ship either.
fn is_test_file(path: &Path) -> bool {
    rules::TEST_SUPPORT.iter().any(|file| path == Path::new(file))
        || path
            .iter()
            .any(|part| part == "tests" || part == "tests.rs" || part == "benches" || part == "build.rs")
}

fn is_test_attribute(attribute: &Attribute) -> bool {
    let path = attribute.path();
    if path.is_ident("test") || path.segments.last().is_some_and(|s| s.ident == "test") {
        return true;
    }
    let syn::Meta::List(list) = &attribute.meta else { return false };
    // `cfg(test)` and `cfg(all(test, …))`, but not `cfg(not(test))`.
    path.is_ident("cfg") && mentions(&list.tokens, "test") && !mentions(&list.tokens, "not")
}

fn mentions(tokens: &TokenStream, word: &str) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == word,
        TokenTree::Group(group) => mentions(&group.stream(), word),
        _ => false,
    })
}

struct Visitor<'a> {
    path: &'a Path,
    lines: Vec<&'a str>,
    unsafe_allowed: bool,
    spawning_allowed: bool,
    /// Inside code compiled for tests only.
    test: bool,
    tool: bool,
    faults: Vec<String>,
}

impl Visitor<'_> {
    fn fault(&mut self, at: Span, what: &str) {
        self.faults.push(format!("{}:{}: {what}", self.path.display(), at.start().line));
    }

    fn scoped(&mut self, attributes: &[Attribute], inner: impl FnOnce(&mut Self)) {
        let outside = self.test;
        self.test |= attributes.iter().any(is_test_attribute);
        inner(self);
        self.test = outside;
    }

    fn function(&mut self, signature: &Signature, body: &Block) {
        let lines = body.span().end().line.saturating_sub(signature.span().start().line) + 1;
        if lines > rules::MAX_FUNCTION_LINES {
            let what =
                format!("fn {}: {lines} lines, more than {}", signature.ident, rules::MAX_FUNCTION_LINES);
            self.fault(signature.span(), &what);
        }
        // An `unsafe fn` needs its safety section as documentation, which the compiler's lints ask for.
        if signature.unsafety.is_some() && !self.unsafe_allowed {
            self.fault(signature.span(), "unsafe fn in a crate without unsafe");
        }
    }

    fn unsafe_at(&mut self, at: Span, what: &str) {
        if !self.unsafe_allowed {
            self.fault(at, &format!("{what} in a crate without unsafe"));
        } else if !self.has_safety_comment(at.start().line) {
            self.fault(at, &format!("{what} without a // SAFETY: comment"));
        }
    }

    /// Looks for the comment on the line itself and upwards as long as the lines can belong to the same statement.
    fn has_safety_comment(&self, line: usize) -> bool {
        let own = line.saturating_sub(1);
        if self.lines.get(own).is_some_and(|l| l.contains("// SAFETY:")) {
            return true;
        }
        for above in self.lines.iter().take(own).rev() {
            let above = above.trim();
            if above.starts_with("// SAFETY:") {
                return true;
            }
            let comment_or_attribute = above.starts_with("//") || above.starts_with("#[");
            let ends_statement = above.ends_with([';', '}']) || above.is_empty();
            if !comment_or_attribute && ends_statement {
                return false;
            }
        }
        false
    }

    fn panicking(&mut self, at: Span, name: &str) {
        if !self.test && !self.tool {
            self.fault(at, &format!("{name} outside tests"));
        }
    }

    /// A thread started otherwise than by `sandbox` has no filter.
    fn spawning(&mut self, at: Span, what: &str) {
        if !self.test && !self.tool && !self.spawning_allowed {
            self.fault(at, &format!("{what} outside of sandbox::spawn"));
        }
    }

    /// Arguments of a macro are tokens to the parser: looks for `.unwrap`, `panic!` and `unsafe {` among them.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut before: Option<char> = None;
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            if let TokenTree::Group(group) = &token {
                self.tokens(group.stream());
            }
            if let TokenTree::Ident(ident) = &token {
                let name = ident.to_string();
                let bang = matches!(tokens.peek(), Some(TokenTree::Punct(p)) if p.as_char() == '!');
                let braces = matches!(tokens.peek(), Some(TokenTree::Group(_)));
                if before == Some('.') && rules::PANICKING_METHODS.contains(&name.as_str())
                    || bang && rules::PANICKING_MACROS.contains(&name.as_str())
                {
                    self.panicking(ident.span(), &name);
                } else if name == "unsafe" && braces {
                    self.unsafe_at(ident.span(), "unsafe block");
                }
            }
            before = if let TokenTree::Punct(punct) = &token { Some(punct.as_char()) } else { None };
        }
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.scoped(&item.attrs, |v| {
            v.function(&item.sig, &item.block);
            visit::visit_item_fn(v, item);
        });
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        self.scoped(&item.attrs, |v| {
            v.function(&item.sig, &item.block);
            visit::visit_impl_item_fn(v, item);
        });
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        self.scoped(&item.attrs, |v| {
            if let Some(body) = &item.default {
                v.function(&item.sig, body);
            }
            visit::visit_trait_item_fn(v, item);
        });
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.scoped(&item.attrs, |v| visit::visit_item_mod(v, item));
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if item.unsafety.is_some() {
            self.unsafe_at(item.impl_token.span, "unsafe impl");
        }
        self.scoped(&item.attrs, |v| visit::visit_item_impl(v, item));
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        match expression {
            Expr::Unsafe(block) => self.unsafe_at(block.unsafe_token.span, "unsafe block"),
            Expr::MethodCall(call) => {
                let name = call.method.to_string();
                if rules::PANICKING_METHODS.contains(&name.as_str()) {
                    self.panicking(call.method.span(), &name);
                }
                if name == "spawn"
                    && matches!(&*call.receiver, Expr::Path(path) if path.path.is_ident("scope"))
                {
                    self.spawning(call.method.span(), "scope.spawn");
                }
            }
            Expr::Path(path) => {
                let mut last = path.path.segments.iter().rev().map(|segment| segment.ident.to_string());
                let names = [last.next(), last.next(), last.next()].map(Option::unwrap_or_default);
                match names.each_ref().map(String::as_str) {
                    ["spawn", "thread", _] => self.spawning(path.span(), "thread::spawn"),
                    ["new", "Builder", "thread"] => self.spawning(path.span(), "thread::Builder"),
                    _ => {}
                }
            }
            _ => {}
        }
        visit::visit_expr(self, expression);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        if let Some(last) = item.path.segments.last()
            && rules::PANICKING_MACROS.contains(&last.ident.to_string().as_str())
        {
            self.panicking(last.ident.span(), &last.ident.to_string());
        }
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}
