//! The OpenAPI document.

/// The document.
pub(crate) fn document() -> String {
    String::new()
}
