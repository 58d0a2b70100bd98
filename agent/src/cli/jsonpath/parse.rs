//! The text of a template → its parts.
//!
//! Pure. A hand-written parser over characters, one function per construct.

use serde_json::{Number, Value};

use super::{Comparison, DEPTH_MAX, Filter, JsonPathError, Operand, Part, Step};

const OPERATORS: [(&str, Comparison); 6] = [
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<=", Comparison::LessOrEqual),
    (">=", Comparison::GreaterOrEqual),
    ("<", Comparison::Less),
    (">", Comparison::Greater),
];

/// A `{range ...}` whose `{end}` has not come yet, and where it began.
struct Open {
    steps: Vec<Step>,
    before: Vec<Part>,
    position: usize,
}

pub(super) fn template(text: &str) -> Result<Vec<Part>, JsonPathError> {
    let mut parser = Parser { text, at: 0 };
    let (mut parts, mut open): (Vec<Part>, Vec<Open>) = (Vec::new(), Vec::new());
    while !parser.rest().is_empty() {
        let literal = parser.take_while(|character| character != '{');
        if !literal.is_empty() {
            parts.push(Part::Text(literal.to_owned()));
        }
        let position = parser.at;
        if !parser.eat("{") {
            break;
        }
        match parser.action()? {
            Action::Part(part) => parts.push(part),
            Action::Range(steps) => {
                if open.len() == DEPTH_MAX {
                    return Err(parser.refuse("ranges nested too deep"));
                }
                open.push(Open { steps, before: std::mem::take(&mut parts), position });
            }
            Action::End => {
                let Some(Open { steps, before, .. }) = open.pop() else {
                    return Err(Parser { text, at: position }.refuse("`{end}` without a `{range ...}`"));
                };
                let body = std::mem::replace(&mut parts, before);
                parts.push(Part::Range(steps, body));
            }
        }
    }
    match open.pop() {
        Some(range) => Err(Parser { text, at: range.position }.refuse("`{range ...}` without its `{end}`")),
        None => Ok(parts),
    }
}

enum Action {
    Part(Part),
    Range(Vec<Step>),
    End,
}

struct Parser<'a> {
    text: &'a str,
    /// In bytes; always between two characters.
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|character| !accept(character)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    fn skip_space(&mut self) {
        self.take_while(|character| matches!(character, ' ' | '\t' | '\r' | '\n'));
    }

    fn refuse(&self, problem: impl Into<String>) -> JsonPathError {
        let position = self.text[..self.at].chars().count() + 1;
        JsonPathError::Syntax { problem: problem.into(), position }
    }

    fn expect(&mut self, word: &str) -> Result<(), JsonPathError> {
        self.skip_space();
        if self.eat(word) {
            return Ok(());
        }
        Err(match self.peek() {
            Some(found) => self.refuse(format!("`{word}` expected, not `{}`,", found.escape_debug())),
            None => self.refuse(format!("`{word}` is missing")),
        })
    }

    /// What stands between `{` and `}`.
    fn action(&mut self) -> Result<Action, JsonPathError> {
        self.skip_space();
        let action = match self.peek() {
            Some('"' | '\'') => Action::Part(Part::Text(self.quoted()?)),
            Some(character) if character.is_ascii_alphabetic() => {
                let start = self.at;
                match self.take_while(|character| character.is_ascii_alphanumeric()) {
                    "range" => Action::Range(self.path(0)?),
                    "end" => Action::End,
                    word => {
                        self.at = start;
                        return Err(self.refuse(format!("`{word}` needs a dot before it: {{.{word}}}, found")));
                    }
                }
            }
            _ => Action::Part(Part::Path(self.path(0)?)),
        };
        self.expect("}")?;
        Ok(action)
    }

    /// Steps up to whatever cannot be one.
    fn path(&mut self, depth: usize) -> Result<Vec<Step>, JsonPathError> {
        let mut steps = Vec::new();
        let start = self.at;
        loop {
            self.skip_space();
            match self.peek() {
                Some('$' | '@') if steps.is_empty() => {
                    self.next();
                }
                Some('.') => self.dotted(&mut steps)?,
                Some('[') => steps.push(self.bracket(depth)?),
                _ if self.rest().starts_with('}') && self.text[start..self.at].trim().is_empty() => {
                    return Err(self.refuse("an expression such as .metadata.name expected"));
                }
                _ => return Ok(steps),
            }
        }
    }

    fn dotted(&mut self, steps: &mut Vec<Step>) -> Result<(), JsonPathError> {
        if self.eat("..") {
            steps.push(Step::Descend);
            match self.peek() {
                Some('[') => return Ok(()),
                Some('.') => return Err(self.refuse("more than two dots")),
                _ => {}
            }
            return self.name().map(|step| steps.extend(step));
        }
        self.expect(".")?;
        match self.name()? {
            Some(step) => steps.push(step),
            // `{.}` is the whole value; `{.[0]}` its first item.
            None if steps.is_empty() || self.peek() == Some('[') => {}
            None => return Err(self.refuse("a field's name expected")),
        }
        Ok(())
    }

    /// `*`, or a name in which `\` stands before dots that are part of it.
    fn name(&mut self) -> Result<Option<Step>, JsonPathError> {
        if self.eat("*") {
            return Ok(Some(Step::Wildcard));
        }
        let mut name = String::new();
        while let Some(character) = self.peek() {
            match character {
                '\\' => {
                    self.next();
                    name.push(self.next().ok_or_else(|| self.refuse("a character after `\\` expected"))?);
                }
                '.' | ',' | '[' | ']' | '(' | ')' | '$' | '@' | '{' | '}' | '=' | '!' | '<' | '>' | '"' | '\'' => break,
                character if character.is_whitespace() => break,
                character => {
                    name.push(character);
                    self.next();
                }
            }
        }
        Ok((!name.is_empty()).then_some(Step::Field(name)))
    }

    /// `[...]`: indices, slices, quoted names, a wildcard, a filter, or several of them.
    fn bracket(&mut self, depth: usize) -> Result<Step, JsonPathError> {
        self.expect("[")?;
        let mut steps = vec![self.selector(depth)?];
        self.skip_space();
        while self.eat(",") {
            steps.push(self.selector(depth)?);
            self.skip_space();
        }
        self.expect("]")?;
        Ok(if steps.len() == 1 { steps.swap_remove(0) } else { Step::Union(steps) })
    }

    fn selector(&mut self, depth: usize) -> Result<Step, JsonPathError> {
        self.skip_space();
        match self.peek() {
            Some('*') => {
                self.next();
                Ok(Step::Wildcard)
            }
            Some('"' | '\'') => self.quoted().map(Step::Field),
            Some('?') => {
                self.next();
                self.filter(depth + 1).map(Step::Filter)
            }
            Some('-' | ':' | '0'..='9') => self.index_or_slice(),
            _ => Err(self.refuse("an index, a slice, a quoted name, `*` or `?(...)` expected inside `[ ]`")),
        }
    }

    fn index_or_slice(&mut self) -> Result<Step, JsonPathError> {
        let start = self.integer()?;
        if !self.eat(":") {
            return start.map(Step::Index).ok_or_else(|| self.refuse("a number expected"));
        }
        let end = self.integer()?;
        let step = if self.eat(":") { self.integer()? } else { None };
        match step.map_or(Ok(1), usize::try_from) {
            Ok(step) if step > 0 => Ok(Step::Slice { start, end, step }),
            _ => Err(self.refuse("a slice's step of 1 or more expected")),
        }
    }

    fn integer(&mut self) -> Result<Option<i64>, JsonPathError> {
        let digits = self.take_while(|character| character.is_ascii_digit() || character == '-');
        if digits.is_empty() {
            return Ok(None);
        }
        digits.parse().map(Some).map_err(|_| self.refuse(format!("a whole number expected, not `{digits}`,")))
    }

    /// `(@.a == "b")`, or `(@.a)`.
    fn filter(&mut self, depth: usize) -> Result<Filter, JsonPathError> {
        if depth > DEPTH_MAX {
            return Err(self.refuse("filters nested too deep"));
        }
        self.expect("(")?;
        let left = self.operand(depth)?;
        self.skip_space();
        let comparison = OPERATORS.into_iter().find(|(word, _)| self.eat(word));
        let comparison = match comparison {
            Some((_, comparison)) => Some((comparison, self.operand(depth)?)),
            None if self.rest().starts_with("&&") || self.rest().starts_with("||") => {
                return Err(self.refuse("filters know no `&&` and no `||`: write one filter after the other, found"));
            }
            None => None,
        };
        self.expect(")")?;
        Ok(Filter { left, comparison })
    }

    fn operand(&mut self, depth: usize) -> Result<Operand, JsonPathError> {
        self.skip_space();
        match self.peek() {
            Some('@' | '$' | '.' | '[') => self.path(depth).map(Operand::Path),
            Some('"' | '\'') => self.quoted().map(|text| Operand::Literal(Value::String(text))),
            Some('-' | '+' | '0'..='9') => {
                let digits = self.take_while(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
                let number: Option<Number> = serde_json::from_str(digits.trim_start_matches('+')).ok();
                let number = number.ok_or_else(|| self.refuse(format!("a number expected, not `{digits}`,")))?;
                Ok(Operand::Literal(Value::Number(number)))
            }
            Some(character) if character.is_ascii_alphabetic() => {
                match self.take_while(|character| character.is_ascii_alphanumeric()) {
                    "true" => Ok(Operand::Literal(Value::Bool(true))),
                    "false" => Ok(Operand::Literal(Value::Bool(false))),
                    "null" | "nil" => Ok(Operand::Literal(Value::Null)),
                    word => Err(self.refuse(format!("`{word}` must stand in quotes, or begin with `@.`, found"))),
                }
            }
            _ => Err(self.refuse("`@.field`, a quoted text or a number expected")),
        }
    }

    /// A text between two `"` or two `'`, with the usual escapes.
    fn quoted(&mut self) -> Result<String, JsonPathError> {
        let start = self.at;
        let quote = self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None => {
                    self.at = start;
                    return Err(self.refuse("a quote that never ends begins"));
                }
                found if found == quote => return Ok(text),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(other) => text.push(other),
                    None => {}
                },
                Some(character) => text.push(character),
            }
        }
    }
}
