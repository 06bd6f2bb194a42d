//! Entries that one place of the index leads to, told apart further by a header's value where many are.

use super::entry::Entry;
use super::request::RequestView;
use crate::text::TextMatch;
use hashbrown::HashMap;
use http::HeaderName;
use smallvec::SmallVec;

/// An entry's place in the order of precedence.
pub(super) type Rank = u32;
/// Lists of candidates, each in order of precedence.
pub(super) type Candidates<'a> = SmallVec<[&'a [Rank]; 16]>;

/// From so many different values on, a header is worth a table.
const WORTH_A_TABLE: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Bucket {
    plain: Box<[Rank]>,
    tables: Box<[HeaderTable]>,
}

#[derive(Debug)]
struct HeaderTable {
    name: HeaderName,
    ranks: HashMap<Box<[u8]>, Box<[Rank]>>,
}

impl Bucket {
    /// `ranks` in order of precedence.
    pub(super) fn new<T>(mut ranks: Vec<Rank>, entries: &[Entry<T>]) -> Self {
        let mut tables = Vec::new();
        while let Some(name) = most_telling(&ranks, entries) {
            let mut table: HashMap<Box<[u8]>, Vec<Rank>> = HashMap::new();
            ranks.retain(|rank| match exact_value(&entries[*rank as usize], &name) {
                Some(value) => {
                    table.entry(value.as_bytes().into()).or_default().push(*rank);
                    false
                }
                None => true,
            });
            let ranks = table.into_iter().map(|(value, ranks)| (value, ranks.into())).collect();
            tables.push(HeaderTable { name, ranks });
        }
        Self { plain: ranks.into(), tables: tables.into() }
    }

    pub(super) fn collect<'a>(&'a self, request: &RequestView<'_>, into: &mut Candidates<'a>) {
        if !self.plain.is_empty() {
            into.push(&self.plain);
        }
        for table in &self.tables {
            if let Some(ranks) = request.header(&table.name).and_then(|value| table.ranks.get(&*value)) {
                into.push(ranks);
            }
        }
    }
}

fn exact_value<'a, T>(entry: &'a Entry<T>, name: &HeaderName) -> Option<&'a str> {
    entry.request.headers.iter().find_map(|header| match &header.value {
        TextMatch::Exact(value) if !header.not && header.name == *name => Some(&**value),
        _ => None,
    })
}

/// The header that tells most of the entries apart.
fn most_telling<T>(ranks: &[Rank], entries: &[Entry<T>]) -> Option<HeaderName> {
    if ranks.len() < WORTH_A_TABLE {
        return None;
    }
    let mut values: HashMap<&HeaderName, hashbrown::HashSet<&str>> = HashMap::new();
    for rank in ranks {
        for header in &entries[*rank as usize].request.headers {
            // The host has an index of its own.
            if let TextMatch::Exact(value) = &header.value
                && !header.not
                && header.name != http::header::HOST
            {
                values.entry(&header.name).or_default().insert(value);
            }
        }
    }
    let best = values.into_iter().max_by(|(a_name, a), (b_name, b)| {
        a.len().cmp(&b.len()).then_with(|| b_name.as_str().cmp(a_name.as_str()))
    });
    best.filter(|(_, values)| values.len() >= WORTH_A_TABLE).map(|(name, _)| name.clone())
}
