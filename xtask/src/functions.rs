// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the generated header says of each function, for the files that are made out of it.

use crate::Result;

/// A function of the header.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// As it stands in the header, in one or more lines, with its semicolon.
    pub prototype: String,
    /// The lines of its documentation, without the comment's own marks.
    pub documentation: Vec<String>,
}

/// The functions of `header` in its order. Those are all behind its `extern "C" {`, each below its
/// comment; anything else there is an error, so that none is left out.
pub fn declared(header: &str) -> Result<Vec<Function>> {
    let (_, rest) =
        header.split_once("extern \"C\" {\n#endif // __cplusplus\n").ok_or("no extern")?;
    let (block, _) = rest.split_once("#ifdef __cplusplus").ok_or("the extern has no end")?;
    let mut functions = Vec::new();
    let mut documentation = Vec::new();
    let mut prototype = String::new();
    for line in block.lines() {
        if let Some(text) = comment(line).filter(|_| prototype.is_empty()) {
            documentation.extend(text.map(str::to_owned));
        } else if !line.is_empty() {
            prototype += line;
            if line.ends_with(';') {
                functions.push(function(&prototype, std::mem::take(&mut documentation))?);
                prototype.clear();
            } else {
                prototype.push('\n');
            }
        }
    }
    if functions.is_empty() || !prototype.is_empty() || !documentation.is_empty() {
        return Err(format!("cannot read the functions of the header: {prototype:?}").into());
    }
    Ok(functions)
}

/// The text in a line of a comment, if it is one: none in its first and last.
fn comment(line: &str) -> Option<Option<&str>> {
    match line.trim() {
        "/**" | "*/" => Some(None),
        "*" => Some(Some("")),
        text => text.strip_prefix("* ").map(Some),
    }
}

fn function(prototype: &str, documentation: Vec<String>) -> Result<Function> {
    let before = prototype.split('(').next().unwrap_or_default();
    let name = before.rsplit([' ', '*']).next().unwrap_or_default();
    if !name.starts_with("laio_") || documentation.is_empty() {
        return Err(format!("not a documented function: {prototype}").into());
    }
    Ok(Function { name: name.to_owned(), prototype: prototype.to_owned(), documentation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(block: &str) -> String {
        format!("extern \"C\" {{\n#endif // __cplusplus\n{block}#ifdef __cplusplus\n}}\n#endif\n")
    }

    #[test]
    fn name_text_and_prototype_are_those_of_the_header() {
        let text = "\n/**\n * One.\n *\n * Two.\n */\nstruct A *laio_x(int a,\n          int b);\n";
        let functions = declared(&header(text)).unwrap();
        assert_eq!(functions.len(), 1);
        assert_eq!(functions[0].name, "laio_x");
        assert_eq!(functions[0].documentation, ["One.", "", "Two."]);
        assert_eq!(functions[0].prototype, "struct A *laio_x(int a,\n          int b);");
    }

    #[test]
    fn what_is_no_documented_function_is_an_error() {
        for text in
            ["int laio_x(void);\n", "/**\n * A.\n */\nint other(void);\n", "", "int laio_x("]
        {
            assert!(declared(&header(text)).is_err(), "{text}");
        }
    }
}
