//! Formats an error together with its causes.

/// Returns the message of `error` and of each of its sources, joined by `: `.
///
/// Omits a source whose message the text already ends with. Transparent errors
/// repeat their source in this way.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Middle(#[from] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("the disk: {0}")]
    struct Inner(#[source] std::fmt::Error);

    #[test]
    fn each_cause_is_said_once() {
        let error = Outer(Middle(Inner(std::fmt::Error)));
        let words = std::fmt::Error.to_string();
        assert_eq!(with_causes(&error), format!("cannot read the file: the disk: {words}"));
        assert_eq!(with_causes(&std::fmt::Error), words);
    }
}
