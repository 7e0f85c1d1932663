//! Connection URIs: `postgresql://user:password@host:port,host:port/dbname?option=value`.
//!
//! Answers to `conninfo_uri_parse_options`, `conninfo_uri_parse_params` and `conninfo_uri_decode` in libpq's
//! `fe-connect.c`. Departure: a password is never repeated in an error, nor is what may be a part of one that was not
//! percent-encoded.

use super::ParseConnInfoError;

const PREFIXES: [&str; 2] = ["postgresql://", "postgres://"];

/// Whether libpq takes the string for a URI.
pub(super) fn is_uri(string: &str) -> bool {
    PREFIXES.iter().any(|prefix| string.starts_with(prefix))
}

/// Splits a URI into options and values, in order; the URI must satisfy [`is_uri`].
pub(super) fn parse(uri: &str) -> Result<Vec<Pair>, ParseConnInfoError> {
    let start = PREFIXES.iter().find(|prefix| uri.starts_with(**prefix)).map_or(0, |prefix| prefix.len());
    let mut parser = Parser { uri, rest: &uri[start..], pairs: Vec::new() };
    parser.credentials()?;
    parser.hosts()?;
    if let Some(rest) = parser.rest.strip_prefix('/') {
        let (dbname, query) = split_before(rest, &['?']);
        // an empty name would hide PGDATABASE
        if !dbname.is_empty() {
            parser.store("dbname", decode(dbname)?);
        }
        parser.rest = query;
    }
    if let Some(query) = parser.rest.strip_prefix('?') {
        parser.query(query)?;
    }
    Ok(parser.pairs)
}

/// An option as a URI gives it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    /// The option's name.
    pub(super) keyword: String,
    /// Its value.
    pub(super) value: String,
}

impl Pair {
    fn is_secret(&self) -> bool {
        super::options::find(&self.keyword).is_some_and(super::OptionSpec::is_secret)
    }
}

struct Parser<'a> {
    uri: &'a str,
    rest: &'a str,
    pairs: Vec<Pair>,
}

impl Parser<'_> {
    fn store(&mut self, keyword: &str, value: String) {
        self.pairs.push(Pair { keyword: keyword.to_owned(), value });
    }

    /// `user:password@`, if an `@` comes before any slash.
    fn credentials(&mut self) -> Result<(), ParseConnInfoError> {
        let (authority, after) = split_before(self.rest, &['@', '/']);
        let Some(after) = after.strip_prefix('@') else { return Ok(()) };
        let (user, password) = split_before(authority, &[':']);
        if !user.is_empty() {
            self.store("user", decode(user)?);
        }
        if let Some(password) = password.strip_prefix(':').filter(|password| !password.is_empty()) {
            let password = decode(password).map_err(|_| ParseConnInfoError::InvalidUriPassword)?;
            self.store("password", password);
        }
        self.rest = after;
        Ok(())
    }

    /// `host:port`, any number of times, with commas between.
    fn hosts(&mut self) -> Result<(), ParseConnInfoError> {
        let (mut hosts, mut ports) = (String::new(), String::new());
        loop {
            hosts.push_str(self.host()?);
            if let Some(rest) = self.rest.strip_prefix(':') {
                let (port, after) = split_before(rest, &['/', '?', ',']);
                ports.push_str(port);
                self.rest = after;
            }
            let Some(rest) = self.rest.strip_prefix(',') else { break };
            self.rest = rest;
            hosts.push(',');
            ports.push(',');
        }
        // "u:p@ss@host" and "u:p/ss@host": what follows the password's first "@" or slash is not a host's name, nor a port
        let is_rest = |host: &str| host.char_indices().any(|(at, character)| at > 0 && character == '@');
        let is_begin = |port: &str| !port.bytes().all(|byte| byte.is_ascii_digit());
        if hosts.split(',').any(is_rest) || self.rest.contains('@') && ports.split(',').any(is_begin) {
            return Err(ParseConnInfoError::InvalidUriPassword);
        }
        if !hosts.is_empty() {
            self.store("host", decode(&hosts)?);
        }
        if !ports.is_empty() {
            self.store("port", decode(&ports)?);
        }
        Ok(())
    }

    fn host(&mut self) -> Result<&str, ParseConnInfoError> {
        let Some(bracketed) = self.rest.strip_prefix('[') else {
            let (host, after) = split_before(self.rest, &[':', '/', '?', ',']);
            self.rest = after;
            return Ok(host);
        };
        let (host, after) = split_before(bracketed, &[']']);
        let Some(after) = after.strip_prefix(']') else {
            return Err(ParseConnInfoError::UnclosedIpv6 { uri: without_password(self.uri) });
        };
        if host.is_empty() {
            return Err(ParseConnInfoError::EmptyIpv6 { uri: without_password(self.uri) });
        }
        if let Some(character) = after.chars().next().filter(|c| !matches!(c, ':' | '/' | '?' | ',')) {
            return Err(ParseConnInfoError::UnexpectedUriCharacter {
                character,
                position: self.uri.len() - after.len() + 1,
                uri: without_password(self.uri),
            });
        }
        self.rest = after;
        Ok(host)
    }

    fn query(&mut self, mut query: &str) -> Result<(), ParseConnInfoError> {
        while !query.is_empty() {
            let (parameter, after) = split_before(query, &['&']);
            query = after.strip_prefix('&').unwrap_or("");
            let Some((keyword, value)) = parameter.split_once('=') else {
                if self.pairs.last().is_some_and(Pair::is_secret) {
                    return Err(ParseConnInfoError::InvalidUriPassword);
                }
                return Err(ParseConnInfoError::MissingUriSeparator { parameter: parameter.to_owned() });
            };
            if value.contains('=') {
                return Err(ParseConnInfoError::ExtraUriSeparator { parameter: keyword.to_owned() });
            }
            let keyword = decode(keyword)?;
            let value = match decode(value) {
                Err(_) if super::options::find(&keyword).is_some_and(super::OptionSpec::is_secret) => {
                    return Err(ParseConnInfoError::InvalidUriPassword);
                }
                value => value?,
            };
            // as JDBC writes it
            if keyword == "ssl" && value == "true" {
                self.store("sslmode", "require".to_owned());
            } else if super::options::is_known(&keyword) {
                self.store(&keyword, value);
            } else {
                return Err(ParseConnInfoError::InvalidUriParameter { parameter: keyword });
            }
        }
        Ok(())
    }
}

/// Splits before the first of the characters, or at the end.
fn split_before<'a>(text: &'a str, stops: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(stops).unwrap_or(text.len()))
}

/// Undoes percent-encoding. Spaces around are dropped, spaces inside must be encoded.
fn decode(token: &str) -> Result<String, ParseConnInfoError> {
    let invalid = || ParseConnInfoError::InvalidPercentEncoding { token: token.to_owned() };
    let trimmed = token.trim_matches(' ');
    if trimmed.chars().any(|c| c.is_ascii_whitespace() || c == '\x0B') {
        return Err(ParseConnInfoError::UriSpaces { token: token.to_owned() });
    }
    let mut decoded = Vec::with_capacity(trimmed.len());
    let mut bytes = trimmed.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(invalid()) };
        match (high << 4 | low) as u8 {
            0 => return Err(ParseConnInfoError::ForbiddenZero { token: token.to_owned() }),
            byte => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).map_err(|_| invalid())
}

/// The URI as an error may show it.
fn without_password(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let (authority, after) = split_before(rest, &['@', '/']);
    let rest = match (after.starts_with('@'), authority.split_once(':')) {
        (true, Some((user, _))) => format!("{user}:***{after}"),
        _ => rest.to_owned(),
    };
    let shown =
        rest.split_once("password=").map_or(rest.clone(), |(front, _)| format!("{front}password=***"));
    format!("{scheme}://{shown}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The options in the order and form of libpq's own regression test.
    fn shown(uri: &str) -> String {
        let pairs = match parse(uri) {
            Ok(pairs) => pairs,
            Err(error) => return error.to_string(),
        };
        let mut shown = Vec::new();
        for keyword in ["user", "password", "dbname", "host", "hostaddr", "port", "sslmode"] {
            if let Some(pair) = pairs.iter().rev().find(|pair| pair.keyword == keyword) {
                shown.push(format!("{keyword}={}", pair.value));
            }
        }
        shown.join(" ")
    }

    #[test]
    fn reads_what_libpq_reads() {
        for (uri, expected) in [
            (
                "postgresql://uri-user:secret@host:12345/db",
                "user=uri-user password=secret dbname=db host=host port=12345",
            ),
            ("postgresql://uri-user@host/db", "user=uri-user dbname=db host=host"),
            ("postgresql://uri-user@", "user=uri-user"),
            ("postgresql://host:12345/", "host=host port=12345"),
            ("postgresql://host", "host=host"),
            ("postgresql://", ""),
            ("postgresql://?hostaddr=127.0.0.1", "hostaddr=127.0.0.1"),
            ("postgresql://example.com?hostaddr=63.1.2.4", "host=example.com hostaddr=63.1.2.4"),
            ("postgresql://%68ost/", "host=host"),
            (
                "postgresql://host/db?u%73er=someotheruser&port=12345",
                "user=someotheruser dbname=db host=host port=12345",
            ),
            ("postgresql://host:12345?user=uri-user", "user=uri-user host=host port=12345"),
            ("postgresql://host?", "host=host"),
            ("postgresql://[::1]:12345/db", "dbname=db host=::1 port=12345"),
            ("postgresql://[200z:db8::1234]/", "host=200z:db8::1234"),
            ("postgres:///", ""),
            ("postgres:///db", "dbname=db"),
            ("postgres://uri-user@/db", "user=uri-user dbname=db"),
            ("postgres://?host=/path/to/socket/dir", "host=/path/to/socket/dir"),
            ("postgres://@host", "host=host"),
            ("postgres://host:/", "host=host"),
            ("postgres://:12345/", "port=12345"),
            (
                "postgres://otheruser@:12345/db?host=/path/to/socket",
                "user=otheruser dbname=db host=/path/to/socket port=12345",
            ),
            ("postgres://%2Fvar%2Flib%2Fpostgresql/dbname", "dbname=dbname host=/var/lib/postgresql"),
            ("postgres://a:1,b,[::1]:3/db", "dbname=db host=a,b,::1 port=1,,3"),
            ("postgres://a,b/db", "dbname=db host=a,b port=,"),
            ("postgres://u:p%40%3A@h?sslmode=verify-full", "user=u password=p@: host=h sslmode=verify-full"),
            ("postgres://h?ssl=true", "host=h sslmode=require"),
            ("postgres://u:a:b@h", "user=u password=a:b host=h"),
            ("postgres://h/a/b", "dbname=a/b host=h"),
        ] {
            assert_eq!(shown(uri), expected, "{uri}");
        }
    }

    #[test]
    fn refuses_what_libpq_refuses() {
        for (uri, expected) in [
            ("postgresql://host/db?u%7aer=someotheruser&port=12345", "invalid URI query parameter: \"uzer\""),
            ("postgresql://host?uzer=", "invalid URI query parameter: \"uzer\""),
            (
                "postgres://[::1",
                "end of string reached when looking for matching \"]\" in IPv6 host address in URI: \"postgres://[::1\"",
            ),
            ("postgres://[]", "IPv6 host address may not be empty in URI: \"postgres://[]\""),
            (
                "postgres://[::1]z",
                "unexpected character \"z\" at position 17 in URI (expected \":\" or \"/\"): \"postgres://[::1]z\"",
            ),
            ("postgresql://host?zzz", "missing key/value separator \"=\" in URI query parameter: \"zzz\""),
            (
                "postgresql://host?value1&value2",
                "missing key/value separator \"=\" in URI query parameter: \"value1\"",
            ),
            (
                "postgresql://host?key=key=value",
                "extra key/value separator \"=\" in URI query parameter: \"key\"",
            ),
            ("postgres://host?dbname=%XXfoo", "invalid percent-encoded token: \"%XXfoo\""),
            ("postgresql://a%00b", "forbidden value %00 in percent-encoded value: \"a%00b\""),
            ("postgresql://%zz", "invalid percent-encoded token: \"%zz\""),
            ("postgresql://%1", "invalid percent-encoded token: \"%1\""),
            ("postgresql://%", "invalid percent-encoded token: \"%\""),
            ("postgres://h?ssl=1", "invalid URI query parameter: \"ssl\""),
        ] {
            assert_eq!(shown(uri), expected, "{uri}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        for uri in
            ["postgres://u:secret@[::1", "postgres://u:secret%zz@h", "postgres://[::1]z?password=secret"]
        {
            let error = parse(uri).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }

    #[test]
    fn no_part_of_a_password_is_repeated() {
        for uri in [
            "postgresql://u:hid@den@host/db",
            "postgresql://u:hid@den@host:5432,other/db",
            "postgresql://u:hid/den@host/db",
            "postgresql://u:hid/den@host:5432/db",
            "postgresql://u:hid%zzden@host/db",
            "postgresql://host/db?password=hid&den",
            "postgresql://host/db?password=hid%zzden",
            "postgresql://u:hidden@[::1/db",
        ] {
            let error = parse(uri).unwrap_err().to_string();
            assert!(!error.contains("hid") && !error.contains("den"), "{uri}: {error}");
        }
        // an abstract socket, and names with an at sign where there is no password
        assert_eq!(shown("postgresql://u@@socket/db"), "user=u dbname=db host=@socket");
        assert_eq!(shown("postgresql://host:1/d@b?user=a@b"), "user=a@b dbname=d@b host=host port=1");
    }

    proptest! {
        #[test]
        fn no_uri_panics(rest in any::<String>()) {
            let _ = parse(&format!("postgres://{rest}"));
        }

        #[test]
        fn no_uri_of_the_characters_that_matter_panics(rest in "[a:@/?&=,%0\\[\\]]{0,24}") {
            let _ = parse(&format!("postgresql://{rest}"));
        }

        #[test]
        fn what_is_encoded_is_decoded(value in "[^\\x00]{0,20}") {
            let encoded: String = value.bytes().map(|b| format!("%{b:02x}")).collect();
            prop_assert_eq!(decode(&encoded).unwrap(), value);
        }
    }
}
