//! What the plugin pgoutput says, in version 1 of its protocol.
//!
//! ```text
//!  B  commit LSN u64 | committed i64 | xid u32                                                            a transaction begins
//!  R  relation u32 | schema\0 | table\0 | identity u8 | columns i16 | (key u8 | name\0 | type u32 | modifier i32)×
//!  I  relation u32 | N tuple
//!  U  relation u32 | (K tuple | O tuple)? | N tuple                                K: the old key, O: the whole old row
//!  D  relation u32 | (K tuple | O tuple)
//!  T  relations u32 | options u8 | relation u32 ×
//!  C  flags u8 | commit LSN u64 | end LSN u64 | committed i64                                             it has ended
//!  O, Y, M: origins, types and messages, which are not needed
//!  tuple = fields i16 | (n | u | t length u32 bytes)×                              n: NULL, u: not changed, and not sent
//! ```
//! Numbers are big-endian. <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Begin(Begin),
    Commit(Commit),
    Relation(RelationMessage),
    Insert {
        relation: u32,
        new: Tuple<'a>,
    },
    Update {
        relation: u32,
        old: Option<Tuple<'a>>,
        new: Tuple<'a>,
    },
    Delete {
        relation: u32,
        old: Tuple<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Of no use here.
    Other,
}

/// A transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    /// Where its commit stands in the log.
    pub(crate) commit_lsn: u64,
    /// When it was committed, in microseconds since 2000.
    pub(crate) committed_us: i64,
}

/// A transaction has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    /// Where its commit ends in the log.
    pub(crate) end_lsn: u64,
}

/// A table as the following rows are of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelationMessage {
    pub(crate) id: u32,
    pub(crate) schema: String,
    pub(crate) table: String,
    /// `pg_class.relreplident`: `d` the primary key, `i` an index, `f` the whole row, `n` nothing.
    pub(crate) identity: u8,
    pub(crate) columns: Vec<RelationColumn>,
}

/// A column of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelationColumn {
    /// Belongs to what identifies rows.
    pub(crate) is_key: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) modifier: i32,
}

/// A row.
pub(crate) type Tuple<'a> = Vec<Value<'a>>;

/// A value of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    /// A large value that the change left as it was.
    Unchanged,
    /// As text, in the encoding of the client.
    Text(&'a [u8]),
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message of the plugin pgoutput that cannot be understood")]
pub(crate) struct Broken;

impl<'a> Message<'a> {
    /// Reads one, which must fill `bytes`.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Broken> {
        let mut input = Input(bytes);
        let message = match input.byte()? {
            b'B' => {
                let (commit_lsn, committed_us) = (input.u64()?, input.i64()?);
                input.u32()?;
                Self::Begin(Begin { commit_lsn, committed_us })
            }
            b'C' => {
                input.byte()?;
                input.u64()?;
                let end_lsn = input.u64()?;
                input.i64()?;
                Self::Commit(Commit { end_lsn })
            }
            b'R' => Self::Relation(input.relation()?),
            b'I' => {
                let relation = input.u32()?;
                input.expect(b'N')?;
                Self::Insert { relation, new: input.tuple()? }
            }
            b'U' => input.update()?,
            b'D' => {
                let relation = input.u32()?;
                match input.byte()? {
                    b'K' | b'O' => Self::Delete { relation, old: input.tuple()? },
                    _ => return Err(Broken),
                }
            }
            b'T' => input.truncate()?,
            b'O' | b'Y' | b'M' => return Ok(Self::Other),
            _ => return Err(Broken),
        };
        if input.0.is_empty() { Ok(message) } else { Err(Broken) }
    }
}

/// What is left of a message.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Broken)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Broken> {
        Ok(self.take::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, Broken> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Broken> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn i64(&mut self) -> Result<i64, Broken> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    /// A number of things that follow; never room to reserve, for it may be anything.
    fn count(&mut self) -> Result<usize, Broken> {
        usize::try_from(i16::from_be_bytes(self.take()?)).map_err(|_| Broken)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Broken> {
        if self.byte()? == byte { Ok(()) } else { Err(Broken) }
    }

    fn text(&mut self) -> Result<String, Broken> {
        let end = memchr::memchr(0, self.0).ok_or(Broken)?;
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    fn relation(&mut self) -> Result<RelationMessage, Broken> {
        let (id, schema, table, identity) = (self.u32()?, self.text()?, self.text()?, self.byte()?);
        let columns = (0..self.count()?).map(|_| {
            let (flags, name) = (self.byte()?, self.text()?);
            let (type_oid, modifier) = (self.u32()?, i32::from_be_bytes(self.take()?));
            Ok(RelationColumn { is_key: flags & 1 != 0, name, type_oid, modifier })
        });
        let columns = columns.collect::<Result<_, Broken>>()?;
        // The plugin leaves the name of this schema out.
        let schema = if schema.is_empty() { "pg_catalog".to_owned() } else { schema };
        Ok(RelationMessage { id, schema, table, identity, columns })
    }

    fn update(&mut self) -> Result<Message<'a>, Broken> {
        let relation = self.u32()?;
        let old = match self.byte()? {
            b'N' => None,
            b'K' | b'O' => {
                let old = self.tuple()?;
                self.expect(b'N')?;
                Some(old)
            }
            _ => return Err(Broken),
        };
        Ok(Message::Update { relation, old, new: self.tuple()? })
    }

    fn truncate(&mut self) -> Result<Message<'a>, Broken> {
        let count = self.u32()?;
        self.byte()?;
        let relations = (0..count).map(|_| self.u32()).collect::<Result<_, Broken>>()?;
        Ok(Message::Truncate { relations })
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, Broken> {
        (0..self.count()?).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> Result<Value<'a>, Broken> {
        match self.byte()? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b't' => {
                let length = usize::try_from(self.u32()?).map_err(|_| Broken)?;
                let (text, rest) = self.0.split_at_checked(length).ok_or(Broken)?;
                self.0 = rest;
                Ok(Value::Text(text))
            }
            _ => Err(Broken),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Messages as the server makes them.
    pub(crate) fn begin(commit_lsn: u64, committed_us: i64) -> Vec<u8> {
        [&b"B"[..], &commit_lsn.to_be_bytes(), &committed_us.to_be_bytes(), &7_u32.to_be_bytes()].concat()
    }

    pub(crate) fn commit(commit_lsn: u64, end_lsn: u64) -> Vec<u8> {
        [&b"C\0"[..], &commit_lsn.to_be_bytes(), &end_lsn.to_be_bytes(), &[0; 8]].concat()
    }

    /// Columns: whether it is of the key, name, type.
    pub(crate) fn relation(id: u32, table: &str, identity: u8, columns: &[(bool, &str, u32)]) -> Vec<u8> {
        let mut out = [b"R", &id.to_be_bytes()[..], b"public\0", table.as_bytes(), &[0, identity]].concat();
        out.extend((columns.len() as i16).to_be_bytes());
        for (is_key, name, type_oid) in columns {
            out.push(u8::from(*is_key));
            out.extend([name.as_bytes(), &[0]].concat());
            out.extend(type_oid.to_be_bytes());
            out.extend((-1_i32).to_be_bytes());
        }
        out
    }

    /// `~` is a value that did not change.
    fn tuple(values: &[Option<&str>]) -> Vec<u8> {
        let mut out = (values.len() as i16).to_be_bytes().to_vec();
        for value in values {
            match value {
                None => out.push(b'n'),
                Some("~") => out.push(b'u'),
                Some(text) => {
                    out.push(b't');
                    out.extend((text.len() as u32).to_be_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
        out
    }

    pub(crate) fn insert(id: u32, new: &[Option<&str>]) -> Vec<u8> {
        [b"I", &id.to_be_bytes()[..], b"N", &tuple(new)].concat()
    }

    pub(crate) fn update(id: u32, old: Option<(&[u8], &[Option<&str>])>, new: &[Option<&str>]) -> Vec<u8> {
        let old = old.map(|(kind, old)| [kind, &tuple(old)].concat()).unwrap_or_default();
        [b"U", &id.to_be_bytes()[..], &old, b"N", &tuple(new)].concat()
    }

    pub(crate) fn delete(id: u32, old: &[Option<&str>]) -> Vec<u8> {
        [b"D", &id.to_be_bytes()[..], b"K", &tuple(old)].concat()
    }

    pub(crate) fn truncate(ids: &[u32]) -> Vec<u8> {
        let ids_bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        [b"T", &(ids.len() as u32).to_be_bytes()[..], &[0], &ids_bytes].concat()
    }

    fn samples() -> Vec<Vec<u8>> {
        vec![
            begin(1 << 40, 5),
            commit(1 << 40, (1 << 40) + 48),
            relation(16_400, "orders", b'd', &[(true, "id", 20), (false, "näme", 25)]),
            insert(16_400, &[Some("1"), Some("")]),
            update(16_400, None, &[Some("1"), Some("~")]),
            update(16_400, Some((b"K", &[Some("1"), None])), &[Some("2"), None]),
            update(16_400, Some((b"O", &[Some("1"), None])), &[Some("2"), None]),
            delete(16_400, &[Some("1"), None]),
            truncate(&[16_400, 16_401]),
        ]
    }

    #[test]
    fn messages_are_read_whole_or_not_at_all() {
        for bytes in samples() {
            assert!(Message::parse(&bytes).is_ok(), "{bytes:?}");
            for end in 0..bytes.len() {
                assert_eq!(Message::parse(&bytes[..end]), Err(Broken), "{bytes:?} cut after {end}");
            }
            assert_eq!(Message::parse(&[&bytes[..], b"x"].concat()), Err(Broken), "{bytes:?} and more");
        }
        assert_eq!(Message::parse(b"M anything"), Ok(Message::Other));
        let bytes = update(3, Some((b"K", &[Some("1"), None])), &[Some("2"), Some("~")]);
        let (old, new) = (vec![Value::Text(b"1"), Value::Null], vec![Value::Text(b"2"), Value::Unchanged]);
        assert_eq!(Message::parse(&bytes), Ok(Message::Update { relation: 3, old: Some(old), new }));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(kind in "[BCRIUDTOYM]", bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(Message::parse(&[kind.as_bytes(), &bytes].concat()));
            drop(Message::parse(&bytes));
        }

        #[test]
        fn a_changed_byte_is_no_panic(sample in 0_usize..9, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = samples().swap_remove(sample);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            drop(Message::parse(&bytes));
        }
    }
}
