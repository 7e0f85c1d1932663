//! `synchronous_standby_names`: whom a commit waits for, and who of them is there.
//!
//! Answers to `syncrep_scanner.l`, `syncrep_gram.y` and `SyncRepGetSyncStandbyPriority` in PostgreSQL's `syncrep.c`.

use std::fmt;
use std::str::FromStr;

use super::replication::Downstream;

/// Whom a commit waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStandbys {
    /// How they are chosen.
    pub method: SyncMethod,
    /// How many have to confirm; at least one.
    pub count: u32,
    /// Their names in the order of the list; `*` is anybody.
    pub names: Vec<String>,
}

/// How those that have to confirm are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMethod {
    /// The first of the list that are there: `FIRST n (…)`, `n (…)` and a plain list.
    First,
    /// Whichever confirm first: `ANY n (…)`.
    Any,
}

/// The text is no list of synchronous standbys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not parse synchronous_standby_names \"{}\"", .text.escape_debug())]
pub struct ParseSyncStandbysError {
    text: String,
}

/// Who of them is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing<'a> {
    /// Those that stream, by their place in the list; among them may be several of one name.
    pub there: Vec<&'a Downstream>,
    /// Names that nobody who streams has.
    pub absent: Vec<&'a str>,
}

impl SyncStandbys {
    /// The place in the list that a receiver of this name has, from 0.
    pub fn place(&self, application_name: &str) -> Option<usize> {
        let listed = |name: &String| name == "*" || name.eq_ignore_ascii_case(application_name);
        self.names.iter().position(listed)
    }

    /// Who is there.
    pub fn standing<'a>(&'a self, walsenders: &'a [Downstream]) -> Standing<'a> {
        let place = |walsender: &Downstream| self.place(&walsender.application_name);
        let mut there: Vec<&Downstream> = walsenders
            .iter()
            .filter(|walsender| walsender.can_confirm() && place(walsender).is_some())
            .collect();
        there.sort_by_key(|walsender| place(walsender));
        let is_there =
            |name: &str| there.iter().any(|walsender| walsender.application_name.eq_ignore_ascii_case(name));
        let names = self.names.iter().map(String::as_str);
        let absent = names.filter(|name| !is_there(name) && *name != "*").collect();
        Standing { there, absent }
    }

    /// Those of `there` that a commit waits for: with `ANY` all of them, though only so many have to confirm.
    pub fn waited_for<'a>(&self, standing: &Standing<'a>) -> Vec<&'a Downstream> {
        let count = match self.method {
            SyncMethod::Any => standing.there.len(),
            SyncMethod::First => self.count as usize,
        };
        standing.there.iter().take(count).copied().collect()
    }

    /// Whether a commit can end when those that never apply WAL do not confirm (`remote_apply`).
    pub fn can_apply(&self, standing: &Standing<'_>) -> bool {
        let appliers = |walsenders: &[&Downstream]| {
            let appliers = walsenders.iter().filter(|walsender| !walsender.never_applies());
            appliers.count() >= self.count as usize
        };
        appliers(&self.waited_for(standing))
    }

    /// How many of those that are there may go before commits wait; negative where they wait already.
    pub fn spare(&self, standing: &Standing<'_>) -> i64 {
        standing.there.len() as i64 - i64::from(self.count)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Any,
    First,
    Name(String),
    Number(String),
    Comma,
    Open,
    Close,
}

/// More than this no server has walsenders for.
const MAX_LEN: usize = 64 << 10;

impl FromStr for SyncStandbys {
    type Err = ParseSyncStandbysError;

    /// Takes what the setting takes, an empty one excepted: it names nobody.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseSyncStandbysError { text: text.chars().take(200).collect() };
        let tokens = Some(text).filter(|text| text.len() <= MAX_LEN).and_then(tokens).ok_or_else(error)?;
        let (method, count, list) = match &tokens[..] {
            [Token::Any, Token::Number(count), Token::Open, list @ .., Token::Close] => {
                (SyncMethod::Any, count.as_str(), list)
            }
            [Token::First, Token::Number(count), Token::Open, list @ .., Token::Close]
            | [Token::Number(count), Token::Open, list @ .., Token::Close] => {
                (SyncMethod::First, count.as_str(), list)
            }
            list => (SyncMethod::First, "1", list),
        };
        let count =
            count.parse().ok().filter(|count| (1..=i32::MAX as u32).contains(count)).ok_or_else(error)?;
        let names = list_of_names(list).ok_or_else(error)?;
        Ok(SyncStandbys { method, count, names })
    }
}

/// Names with commas between them.
fn list_of_names(tokens: &[Token]) -> Option<Vec<String>> {
    tokens
        .split(|token| *token == Token::Comma)
        .map(|item| match item {
            [Token::Name(name) | Token::Number(name)] => Some(name.clone()),
            _ => None,
        })
        .collect()
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, len) = match first {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => {
                rest = &rest[1..];
                continue;
            }
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '*' => (Token::Name("*".to_owned()), 1),
            '"' => quoted(rest)?,
            '0'..='9' => {
                let len = run(rest, |character| character.is_ascii_digit());
                (Token::Number(rest[..len].to_owned()), len)
            }
            'a'..='z' | 'A'..='Z' | '_' | '\u{80}'.. => {
                let part = |character: char| {
                    character.is_ascii_alphanumeric() || matches!(character, '_' | '$' | '\u{80}'..)
                };
                let len = run(rest, part);
                let word = &rest[..len];
                let token = match word {
                    _ if word.eq_ignore_ascii_case("any") => Token::Any,
                    _ if word.eq_ignore_ascii_case("first") => Token::First,
                    _ => Token::Name(word.to_owned()),
                };
                (token, len)
            }
            _ => return None,
        };
        tokens.push(token);
        rest = &rest[len..];
    }
    Some(tokens)
}

fn run(text: &str, part: impl Fn(char) -> bool) -> usize {
    text.find(|character| !part(character)).unwrap_or(text.len())
}

/// `"a ""quoted"" name"`, and how long it is with its quotes.
fn quoted(text: &str) -> Option<(Token, usize)> {
    let mut name = String::new();
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' if characters.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return Some((Token::Name(name), at + 1)),
            _ => name.push(character),
        }
    }
    None
}

impl fmt::Display for SyncStandbys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            SyncMethod::First => "FIRST",
            SyncMethod::Any => "ANY",
        };
        write!(f, "{method} {} ({})", self.count, list(&self.names))
    }
}

/// Names as they are written into the setting: quoted where they have to be.
pub fn list<S: AsRef<str>>(names: &[S]) -> String {
    let quoted = names.iter().map(|name| {
        let name = name.as_ref();
        let plain = tokens(name).is_some_and(|tokens| tokens == [Token::Name(name.to_owned())]);
        if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    });
    quoted.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "sync_standbys_tests.rs"]
mod tests;
