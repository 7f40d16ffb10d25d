// SPDX-License-Identifier: MIT OR Apache-2.0

//! The manual pages of the functions, out of what the header says of them.

use crate::Result;
use crate::functions::Function;

/// The path and the text of each function's page.
pub fn pages(functions: &[Function], version: &str) -> Result<Vec<(String, String)>> {
    let page = |function: &Function| {
        Ok((format!("docs/man/{}.3", function.name), page(function, version)?))
    };
    functions.iter().map(page).collect()
}

fn page(function: &Function, version: &str) -> Result<String> {
    let Function { name, prototype, documentation } = function;
    let mut text = format!(
        ".\\\" SPDX-License-Identifier: MIT OR Apache-2.0\n\
         .\\\" Generated from include/laio.h by `make header`; do not edit.\n\
         .TH {} 3 \"\" \"laio {version}\" \"liblaio\"\n\
         .SH NAME\n{name} \\- {}\n\
         .SH LIBRARY\n.RI \"liblaio (\" \\-llaio )\n\
         .SH SYNOPSIS\n.nf\n.B #include <laio.h>\n.PP\n",
        name.to_uppercase(),
        escaped(&summary(documentation)?),
    );
    for line in prototype.lines() {
        text += &format!(".B \"{}\"\n", escaped(line));
    }
    text += ".fi\n.SH DESCRIPTION\n";
    for line in documentation {
        text += &if line.is_empty() { ".PP\n".to_owned() } else { format!("{}\n", marked(line)) };
    }
    text += ".SH SEE ALSO\n";
    let mut others = mentioned(documentation);
    others.retain(|other| other != name);
    for other in others {
        text += &format!(".BR {other} (3),\n");
    }
    Ok(text + ".BR laio (7)\n")
}

/// The beginning of the first sentence, for the line that whatis(1) shows: in small, without its end.
fn summary(documentation: &[String]) -> Result<String> {
    let paragraph: Vec<&str> =
        documentation.iter().map(String::as_str).take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    let end = paragraph.find([':', ';', '.']).unwrap_or(paragraph.len());
    let sentence = &paragraph[..end];
    let mut letters = sentence.chars();
    let first = letters.next().ok_or("a documentation that begins with nothing")?;
    Ok(first.to_lowercase().chain(letters).filter(|letter| *letter != '`').collect())
}

/// The functions of the library that the text names, each once, in its order.
fn mentioned(documentation: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in documentation {
        for before in line.split("()").take(line.matches("()").count()) {
            let start =
                before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| i + 1);
            let name = &before[start..];
            if name.starts_with("laio_") && !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// A line of text: what stands between backticks in italics, and nothing taken for a request.
fn marked(line: &str) -> String {
    let mut text = String::new();
    for (index, part) in line.split('`').enumerate() {
        text += &if index % 2 == 1 { format!("\\fI{}\\fP", escaped(part)) } else { escaped(part) };
    }
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// Each hyphen is a minus: what is written here is C, names and numbers as well.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_what_the_header_says() {
        let documentation =
            ["Does `x`: so. As laio_b()", ".5 or laio_b().", "", "-EINVAL \\ \"no\"."];
        let function = Function {
            name: "laio_a".into(),
            prototype: "int laio_a(int x,\n           char *y);".into(),
            documentation: documentation.map(str::to_owned).to_vec(),
        };
        let (path, text) = pages(&[function], "1.2.3").unwrap().remove(0);
        assert_eq!(path, "docs/man/laio_a.3");
        for part in [
            ".TH LAIO_A 3 \"\" \"laio 1.2.3\" \"liblaio\"\n",
            ".SH NAME\nlaio_a \\- does x\n",
            ".B \"int laio_a(int x,\"\n.B \"           char *y);\"\n.fi\n",
            "Does \\fIx\\fP: so. As laio_b()\n\\&.5 or laio_b().\n.PP\n\\-EINVAL \\e \\(dqno\\(dq.\n",
            ".SH SEE ALSO\n.BR laio_b (3),\n.BR laio (7)\n",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
    }
}
