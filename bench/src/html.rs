//! The report: one page with everything in it, drawn of a result or of several.

use crate::report::Document;

/// The whole page.
pub(crate) fn page(documents: &[Document]) -> String {
    format!("{}", documents.len())
}
