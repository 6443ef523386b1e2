//! Edits a TOML text and leaves all other bytes unchanged.
//!
//! `toml_edit` provides the positions of keys and values; the edit is made in the
//! text itself. Printing the document of `toml_edit` instead would turn CRLF into
//! LF, add a final line break, group dotted keys and lose the comments above a
//! removed table (documented limits of the library).
//!
//! Every function returns the new text, or `None` if the text is written in a
//! form that the edit does not support. The caller verifies the meaning of the
//! new text, so a mistake here cannot corrupt a file.

use std::ops::Range;

use toml_edit::{Array, Document, Item, Table, TableLike, Value};

/// One step of a path into a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// A parsed text with the positions of its parts.
pub(crate) struct Source<'t> {
    text: &'t str,
    document: Document<&'t str>,
    /// Positions of the table headers, in the order of the text.
    headers: Vec<Range<usize>>,
}

/// The way in which the keys of a table are written.
#[derive(Clone, Debug)]
enum Form {
    /// One line per key, below a header or, without one, at the beginning of the
    /// file. The prefix of dotted keys is, for example, `keep.`.
    Lines { header: Option<Range<usize>>, prefix: String },
    /// In braces that contain `values`.
    Inline { braces: Range<usize>, values: Vec<Range<usize>>, prefix: String },
    /// Not at all: only the headers of inner tables name the table.
    Implied,
}

impl<'t> Source<'t> {
    /// Parses `text`; `None` if it is not TOML.
    pub(crate) fn parse(text: &'t str) -> Option<Self> {
        let document = Document::parse(text).ok()?;
        let mut headers = Vec::new();
        collect_headers(document.as_table(), &mut headers);
        headers.sort_by_key(|header| header.start);
        Some(Self { text, document, headers })
    }

    /// Changes the value of a key, or adds the key.
    pub(crate) fn set(&self, table: &[Step<'_>], key: &str, value: &str) -> Option<String> {
        let Some((form, entries)) = self.resolve(table) else {
            return self.add_table(table, key, value);
        };
        match entries.get(key) {
            Some(Item::Value(old)) if !is_dotted(old) => Some(self.replace(old.span()?, value)),
            Some(_) => None,
            None => self.add_key(table, &form, entries, key, value),
        }
    }

    /// Removes a key with its value, and their line.
    pub(crate) fn remove(&self, table: &[Step<'_>], key: &str) -> Option<String> {
        let (form, entries) = self.resolve(table)?;
        let (key, item) = entries.get_key_value(key)?;
        let value = item.as_value().filter(|value| !is_dotted(value))?;
        let (key, value) = (key.span()?, value.span()?);
        match form {
            Form::Lines { .. } => {
                Some(self.replace(self.line_start(key.start)..self.next_line(value.end), ""))
            }
            Form::Inline { braces, values, .. } => {
                let prev =
                    values.iter().map(|value| value.end).filter(|end| *end <= key.start).max();
                let next =
                    values.iter().map(|value| value.start).filter(|at| *at >= value.end).min();
                let start = self.skip_gap(prev.unwrap_or(braces.start + 1));
                let range = match (prev, next) {
                    (_, Some(_)) => start..self.skip_gap(value.end),
                    (Some(prev), None) => prev..value.end,
                    (None, None) => {
                        start..self.comma(value.end..braces.end - 1).map_or(value.end, |at| at + 1)
                    }
                };
                Some(self.replace(range, ""))
            }
            Form::Implied => None,
        }
    }

    /// Adds a value at the end of a list that the text contains.
    pub(crate) fn push(&self, table: &[Step<'_>], key: &str, value: &str) -> Option<String> {
        self.push_to(self.array(table, key)?, value)
    }

    /// Removes a value from a list that the text contains.
    pub(crate) fn remove_at(&self, table: &[Step<'_>], key: &str, index: usize) -> Option<String> {
        self.remove_from(self.array(table, key)?, index)
    }

    /// Adds a table at the end of a list of tables, in the form of the list.
    pub(crate) fn push_table(
        &self,
        section: &str,
        key: &str,
        fields: &[(String, String)],
    ) -> Option<String> {
        let inline = || {
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            format!("{{ {} }}", fields.join(", "))
        };
        let mut block = vec![format!("[[{section}.{key}]]")];
        block.extend(fields.iter().map(|(key, value)| format!("{key} = {value}")));
        let table = [Step::Key(section)];
        let Some((form, entries)) = self.resolve(&table) else {
            return Some(self.append(&block));
        };
        match (entries.get(key), &form) {
            (Some(Item::ArrayOfTables(tables)), _) => {
                let last = tables.iter().last()?.span()?;
                Some(self.insert_block(&last, &block))
            }
            (Some(Item::Value(Value::Array(array))), _) => self.push_to(array, &inline()),
            (Some(_), _) => None,
            (None, Form::Inline { .. }) => {
                self.add_key(&table, &form, entries, key, &format!("[{}]", inline()))
            }
            (None, Form::Lines { header: Some(header), prefix }) if prefix.is_empty() => {
                Some(self.insert_block(header, &block))
            }
            (None, _) => Some(self.append(&block)),
        }
    }

    /// Removes a table from a list of tables of any form.
    pub(crate) fn remove_table(&self, section: &str, key: &str, index: usize) -> Option<String> {
        let (_, entries) = self.resolve(&[Step::Key(section)])?;
        match entries.get(key)? {
            Item::ArrayOfTables(tables) => {
                let table = tables.get(index)?;
                let header = table.span()?;
                let last = value_spans(table).map(|value| value.end).max();
                let mut range =
                    self.line_start(header.start)..self.next_line(last.unwrap_or(header.end));
                // Remove the blank line above the table, too.
                let before = self.text[..range.start].trim_end_matches([' ', '\t']);
                if is_blank_before(before) && self.is_blank_at(range.end) {
                    let line = before.strip_suffix('\n').unwrap_or(before);
                    range.start = line.strip_suffix('\r').unwrap_or(line).len();
                }
                Some(self.replace(range, ""))
            }
            Item::Value(Value::Array(array)) => self.remove_from(array, index),
            _ => None,
        }
    }

    /// Returns the form of a table, and its entries.
    fn resolve(&self, path: &[Step<'_>]) -> Option<(Form, &dyn TableLike)> {
        let mut form = Form::Lines { header: None, prefix: String::new() };
        let mut entries: &dyn TableLike = self.document.as_table();
        let mut steps = path.iter().peekable();
        while let Some(step) = steps.next() {
            let Step::Key(key) = step else { return None };
            let item = entries.get(key)?;
            let index = steps.next_if(|step| matches!(step, Step::Index(_)));
            match (item, index) {
                (Item::Table(table), None) => {
                    if table.is_dotted() {
                        form = form.dotted(key)?;
                    } else if table.is_implicit() {
                        form = Form::Implied;
                    } else {
                        form = Form::Lines { header: Some(table.span()?), prefix: String::new() };
                    }
                    entries = table;
                }
                (Item::Value(Value::InlineTable(table)), None) => {
                    form = if table.is_dotted() { form.dotted(key)? } else { Form::inline(table)? };
                    entries = table;
                }
                (Item::ArrayOfTables(tables), Some(Step::Index(index))) => {
                    let table = tables.get(*index)?;
                    form = Form::Lines { header: Some(table.span()?), prefix: String::new() };
                    entries = table;
                }
                (Item::Value(Value::Array(tables)), Some(Step::Index(index))) => {
                    let table = tables.get(*index)?.as_inline_table()?;
                    form = Form::inline(table)?;
                    entries = table;
                }
                _ => return None,
            }
        }
        Some((form, entries))
    }

    fn array(&self, table: &[Step<'_>], key: &str) -> Option<&Array> {
        let (_, entries) = self.resolve(table)?;
        entries.get(key)?.as_array()
    }

    /// Adds a table with one key.
    fn add_table(&self, path: &[Step<'_>], key: &str, value: &str) -> Option<String> {
        match path {
            [] => None,
            [Step::Key(section)] => {
                Some(self.append(&[format!("[{section}]"), format!("{key} = {value}")]))
            }
            [outer @ .., Step::Key(name)] => {
                self.set(outer, name, &format!("{{ {key} = {value} }}"))
            }
            [.., Step::Index(_)] => None,
        }
    }

    fn add_key(
        &self,
        path: &[Step<'_>],
        form: &Form,
        entries: &dyn TableLike,
        key: &str,
        value: &str,
    ) -> Option<String> {
        match form {
            Form::Implied => {
                let names: Option<Vec<&str>> = path
                    .iter()
                    .map(|step| if let Step::Key(key) = step { Some(*key) } else { None })
                    .collect();
                let header = format!("[{}]", names?.join("."));
                Some(self.append(&[header, format!("{key} = {value}")]))
            }
            Form::Lines { header, prefix } => {
                let last = value_spans(entries).max_by_key(|value| value.start);
                // Below the comment that shows the default, if there is one.
                let shown = header.as_ref().filter(|_| prefix.is_empty());
                let shown = shown.and_then(|header| self.commented(header, entries, key));
                let anchor = shown
                    .or(last.as_ref().map(|value| value.end))
                    .or(header.as_ref().map(|header| header.end))?;
                let indent = last.as_ref().map_or("", |value| self.indent(value.start));
                let line = format!("{}{indent}{prefix}{key} = {value}", self.newline());
                let at = self.line_end(anchor);
                Some(self.replace(at..at, &line))
            }
            Form::Inline { braces, prefix, .. } => {
                let last = value_spans(entries).map(|value| value.end).max();
                let entry = format!("{prefix}{key} = {value}");
                Some(match last {
                    Some(end) => self.replace(end..end, &format!(", {entry}")),
                    None if self.text[braces.start + 1..braces.end - 1].trim().is_empty() => {
                        self.replace(braces.clone(), &format!("{{ {entry} }}"))
                    }
                    None => self.replace(braces.start + 1..braces.start + 1, &format!(" {entry}")),
                })
            }
        }
    }

    fn push_to(&self, array: &Array, value: &str) -> Option<String> {
        let span = array.span()?;
        let close = span.end - 1;
        let last = array.iter().filter_map(Value::span).max_by_key(|value| value.end);
        let start = last.as_ref().map_or(span.start + 1, |value| value.end);
        let comma = self.comma(start..close);
        // Insert at the end of the line of the last value and its comma, because
        // a comment on that line belongs to the value.
        let from = comma.map_or(start, |at| at + 1);
        let line_end = self.line_end(from);
        let mut text = self.text.to_owned();
        if line_end < close {
            let indent = match &last {
                Some(value) => self.indent(value.start).to_owned(),
                None => format!("{}    ", self.indent(span.start)),
            };
            let trailing = if comma.is_some() { "," } else { "" };
            text.insert_str(line_end, &format!("{}{indent}{value}{trailing}", self.newline()));
            if last.is_some() && comma.is_none() {
                text.insert(start, ',');
            }
        } else if last.is_none() {
            text.replace_range(span.start + 1..close, value);
        } else if comma.is_some() {
            text.insert_str(from, &format!(" {value},"));
        } else {
            text.insert_str(start, &format!(", {value}"));
        }
        Some(text)
    }

    fn remove_from(&self, array: &Array, index: usize) -> Option<String> {
        let close = array.span()?.end - 1;
        let item = array.get(index)?.span()?;
        let prev = index.checked_sub(1).and_then(|at| array.get(at)).and_then(Value::span);
        let next = array.get(index + 1).and_then(Value::span);
        let gap_end = next.as_ref().map_or(close, |next| next.start);
        let comma = self.comma(item.end..gap_end);
        let after = comma.map_or(item.end, |at| at + 1);
        // If the value has its own line, remove the line with its comment.
        let line = self.line_start(item.start)..self.next_line(after);
        let is_alone = self.text[line.start..item.start].trim().is_empty()
            && line.end <= gap_end
            && (comma.is_some_and(|at| at < self.line_end(item.end)) || next.is_none());
        let range = if is_alone {
            line
        } else if let Some(next) = next {
            item.start..next.start
        } else if let Some(prev) = prev {
            prev.end..item.end
        } else {
            item.start..after
        };
        Some(self.replace(range, ""))
    }

    /// Returns the end of the comment `# key = …` below a header, which shows the
    /// default of a key.
    fn commented(
        &self,
        header: &Range<usize>,
        entries: &dyn TableLike,
        key: &str,
    ) -> Option<usize> {
        let values: Vec<_> = value_spans(entries).collect();
        let body = self.next_line(header.end)..self.body_end(header);
        let mut at = body.start;
        while at < body.end {
            let line = &self.text[at..self.line_end(at)];
            let shown = line.trim_start().strip_prefix('#').map(str::trim_start);
            let rest = shown.and_then(|shown| shown.strip_prefix(key));
            let is_value = values.iter().any(|value| value.contains(&at));
            if rest.is_some_and(|rest| rest.trim_start().starts_with('=')) && !is_value {
                return Some(at);
            }
            at = self.next_line(at);
        }
        None
    }

    /// Inserts lines at the end of the table of a header, between blank lines.
    fn insert_block(&self, header: &Range<usize>, block: &[String]) -> String {
        let end = self.body_end(header);
        if end == self.text.len() {
            return self.append(block);
        }
        // A comment directly above the next header belongs to that header.
        let mut at = end;
        while at > 0 {
            let above = self.line_start(at - 1);
            if above <= header.end || !self.text[above..at].trim_start().starts_with('#') {
                break;
            }
            at = above;
        }
        let newline = self.newline();
        let apart = if is_blank_before(&self.text[..at]) { "" } else { newline };
        let block = format!("{apart}{}{newline}{newline}", block.join(newline));
        self.replace(at..at, &block)
    }

    /// Adds lines at the end of the file, after a blank line.
    fn append(&self, block: &[String]) -> String {
        let newline = self.newline();
        let mut text = self.text.to_owned();
        let is_ended = text.is_empty() || text.ends_with('\n');
        if !is_ended {
            text.push_str(newline);
        }
        if !is_blank_before(&text) {
            text.push_str(newline);
        }
        text.push_str(&block.join(newline));
        if is_ended {
            text.push_str(newline);
        }
        text
    }

    /// Returns the end of the table of a header: the line of the next header.
    fn body_end(&self, header: &Range<usize>) -> usize {
        let next = self.headers.iter().find(|other| other.start > header.start);
        next.map_or(self.text.len(), |next| self.line_start(next.start))
    }

    fn replace(&self, range: Range<usize>, with: &str) -> String {
        let mut text = self.text.to_owned();
        text.replace_range(range, with);
        text
    }

    fn newline(&self) -> &'static str {
        if self.text.contains("\r\n") { "\r\n" } else { "\n" }
    }

    fn line_start(&self, at: usize) -> usize {
        self.text[..at].rfind('\n').map_or(0, |newline| newline + 1)
    }

    /// Returns the end of the line of `at`, before its line break.
    fn line_end(&self, at: usize) -> usize {
        let end = self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline);
        if end > at && self.text.as_bytes()[end - 1] == b'\r' { end - 1 } else { end }
    }

    fn next_line(&self, at: usize) -> usize {
        self.text[at..].find('\n').map_or(self.text.len(), |newline| at + newline + 1)
    }

    /// Returns the spaces and tabs at the beginning of the line of `at`.
    fn indent(&self, at: usize) -> &str {
        let line = &self.text[self.line_start(at)..at];
        &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
    }

    fn is_blank_at(&self, at: usize) -> bool {
        self.text[at..self.line_end(at)].trim().is_empty()
    }

    /// Returns the first comma in the gap between two values.
    fn comma(&self, gap: Range<usize>) -> Option<usize> {
        let mut is_comment = false;
        for (at, byte) in self.text[gap.clone()].bytes().enumerate() {
            match byte {
                b'#' => is_comment = true,
                b'\n' => is_comment = false,
                b',' if !is_comment => return Some(gap.start + at),
                _ => {}
            }
        }
        None
    }

    /// Returns the first position from `at` on that is not white space, a comma
    /// or a comment.
    fn skip_gap(&self, at: usize) -> usize {
        let mut is_comment = false;
        for (offset, byte) in self.text[at..].bytes().enumerate() {
            match byte {
                b'\n' => is_comment = false,
                _ if is_comment => {}
                b'#' => is_comment = true,
                b' ' | b'\t' | b'\r' | b',' => {}
                _ => return at + offset,
            }
        }
        self.text.len()
    }
}

impl Form {
    fn inline(table: &toml_edit::InlineTable) -> Option<Self> {
        let values = value_spans(table).collect();
        Some(Self::Inline { braces: table.span()?, values, prefix: String::new() })
    }

    /// Returns the form of a table inside this one that is written with dotted
    /// keys.
    fn dotted(self, key: &str) -> Option<Self> {
        match self {
            Self::Lines { header, prefix } => {
                Some(Self::Lines { header, prefix: format!("{prefix}{key}.") })
            }
            Self::Inline { braces, values, prefix } => {
                Some(Self::Inline { braces, values, prefix: format!("{prefix}{key}.") })
            }
            Self::Implied => None,
        }
    }
}

/// Reports whether a value is a table that only dotted keys name, so that it has
/// no position of its own.
fn is_dotted(value: &Value) -> bool {
    value.as_inline_table().is_some_and(toml_edit::InlineTable::is_dotted)
}

/// Returns the positions of the values below one header or in one pair of
/// braces.
fn value_spans(table: &dyn TableLike) -> impl Iterator<Item = Range<usize>> {
    table.get_values().into_iter().filter_map(|(_, value)| value.span())
}

fn collect_headers(table: &Table, headers: &mut Vec<Range<usize>>) {
    for (_, item) in table.iter() {
        match item {
            Item::Table(table) => {
                if !table.is_dotted() && !table.is_implicit() {
                    headers.extend(table.span());
                }
                collect_headers(table, headers);
            }
            Item::ArrayOfTables(tables) => {
                for table in tables.iter() {
                    headers.extend(table.span());
                    collect_headers(table, headers);
                }
            }
            Item::None | Item::Value(_) => {}
        }
    }
}

/// Reports whether the last line of `text` is blank, or `text` is empty.
fn is_blank_before(text: &str) -> bool {
    let Some(text) = text.strip_suffix('\n') else { return text.is_empty() };
    text.rsplit('\n').next().unwrap_or_default().trim().is_empty()
}
