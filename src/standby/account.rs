//! Who a user is: for a server that root starts as somebody else.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A user's name and home directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) home: PathBuf,
}

impl Account {
    /// The account with this number, from `/etc/passwd` or from wherever `getent` finds it. Stands for `getpwuid`, which
    /// needs `unsafe`.
    pub(super) fn of(uid: u32) -> Option<Self> {
        let local = std::fs::read("/etc/passwd").unwrap_or_default();
        Self::find(&local, uid).or_else(|| {
            let mut getent = Command::new("getent");
            let output = getent.args(["passwd", &uid.to_string()]).stdin(Stdio::null()).output().ok()?;
            Self::find(&output.stdout, uid)
        })
    }

    fn find(passwd: &[u8], uid: u32) -> Option<Self> {
        let text = String::from_utf8_lossy(passwd);
        text.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, number, _, _, home, ..] = fields[..] else { return None };
            (number.parse() == Ok(uid)).then(|| Account { name: name.to_owned(), home: home.into() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_user_by_number() {
        let passwd =
            b"root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:P:/var/lib/postgresql:/bin/bash\nbroken\n";
        let account = Account::find(passwd, 101).unwrap();
        assert_eq!((account.name.as_str(), account.home), ("postgres", PathBuf::from("/var/lib/postgresql")));
        assert_eq!(Account::find(passwd, 1), None);
        assert!(Account::of(0).is_some());
    }
}
