//! Which rule a request is for, at a cost that hardly grows with the number of rules.
//!
//! All matches are sorted by precedence once; the place is their rank. Indexes (host, then exact paths, a
//! tree of prefixes, gRPC methods, then the value of a telling header) yield short lists of candidates,
//! which are tried in the order of their ranks: the first that holds is the answer. So the indexes only
//! leave out what cannot hold, and precedence is in one place.

mod bucket;
mod entry;
mod request;
mod trie;

#[cfg(test)]
mod tests;

pub use entry::{Entry, HeaderPredicate, Host, Order, PathMatch, QueryPredicate, RequestMatch};
pub(crate) use request::form_decode;
pub(crate) use request::query_parameter;
pub use request::{RequestView, joined};

use bucket::{Bucket, Candidates, Rank};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use trie::Trie;

/// Immutable; made anew when routes change.
#[derive(Debug)]
pub struct Matcher<T> {
    entries: Box<[Entry<T>]>,
    exact: HashMap<Box<str>, Paths>,
    suffixes: HashMap<Box<str>, Paths>,
    any: Option<Paths>,
}

/// The index of one host.
#[derive(Debug)]
struct Paths {
    exact: HashMap<Box<str>, Bucket>,
    prefixes: Option<Trie>,
    folded_exact: HashMap<Box<str>, Bucket>,
    folded_prefixes: Option<Trie>,
    grpc_methods: HashMap<Box<str>, Bucket>,
}

impl<T> Matcher<T> {
    pub fn new(mut entries: Vec<Entry<T>>) -> Self {
        entries.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        let mut hosts: HashMap<&Host, Vec<Rank>> = HashMap::new();
        for (rank, entry) in entries.iter().enumerate() {
            hosts.entry(&entry.host).or_default().push(rank as Rank);
        }
        let (mut exact, mut suffixes, mut any) = (HashMap::new(), HashMap::new(), None);
        for (host, ranks) in hosts {
            let paths = Paths::new(&ranks, &entries);
            match host {
                Host::Any => any = Some(paths),
                Host::Exact(name) => {
                    exact.insert(name.clone(), paths);
                }
                Host::Suffix(suffix) => {
                    suffixes.insert(suffix.clone(), paths);
                }
            }
        }
        Self { entries: entries.into(), exact, suffixes, any }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry that the request is for.
    pub fn find(&self, request: &RequestView<'_>) -> Option<&Entry<T>> {
        let mut lists = Candidates::new();
        if let Some(paths) = self.exact.get(request.host) {
            paths.collect(request, &mut lists);
        }
        if !self.suffixes.is_empty() {
            for (at, _) in request.host.match_indices('.').filter(|(at, _)| *at > 0) {
                if let Some(paths) = self.suffixes.get(&request.host[at..]) {
                    paths.collect(request, &mut lists);
                }
            }
        }
        if let Some(paths) = &self.any {
            paths.collect(request, &mut lists);
        }
        self.first_that_holds(request, &mut lists)
    }

    /// Merges the lists by rank.
    fn first_that_holds(&self, request: &RequestView<'_>, lists: &mut Candidates<'_>) -> Option<&Entry<T>> {
        loop {
            let list = lists.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0])?;
            let entry = &self.entries[list[0] as usize];
            *list = &list[1..];
            if entry.request.holds(request) {
                return Some(entry);
            }
        }
    }
}

impl Paths {
    fn new<T>(ranks: &[Rank], entries: &[Entry<T>]) -> Self {
        let (mut exact, mut folded_exact) = (HashMap::new(), HashMap::new());
        let mut grpc_methods = HashMap::new();
        let (mut prefixes, mut folded_prefixes) = (BTreeMap::new(), BTreeMap::new());
        fn put<K: Eq + std::hash::Hash>(map: &mut HashMap<K, Vec<Rank>>, key: K, rank: Rank) {
            map.entry(key).or_default().push(rank);
        }
        let put_prefix = |map: &mut BTreeMap<Vec<u8>, Vec<Rank>>, key: &[u8], rank: Rank| {
            map.entry(key.to_vec()).or_default().push(rank);
        };
        for rank in ranks {
            match &entries[*rank as usize].request.path {
                PathMatch::Exact(path) => put(&mut exact, path.clone(), *rank),
                PathMatch::FoldedExact(path) => put(&mut folded_exact, path.clone(), *rank),
                PathMatch::GrpcMethod(method) => put(&mut grpc_methods, method.clone(), *rank),
                PathMatch::Any => put_prefix(&mut prefixes, b"", *rank),
                PathMatch::Segments(prefix) | PathMatch::Prefix(prefix) => {
                    put_prefix(&mut prefixes, prefix.as_bytes(), *rank);
                }
                PathMatch::Regex(pattern) => put_prefix(&mut prefixes, &pattern.literal_prefix(), *rank),
                PathMatch::FoldedSegments(prefix) | PathMatch::FoldedPrefix(prefix) => {
                    put_prefix(&mut folded_prefixes, prefix.as_bytes(), *rank);
                }
            }
        }
        let table = |map: HashMap<Box<str>, Vec<Rank>>| {
            map.into_iter().map(|(key, ranks)| (key, Bucket::new(ranks, entries))).collect()
        };
        let trie = |map: BTreeMap<Vec<u8>, Vec<Rank>>| {
            let keys: Vec<_> =
                map.into_iter().map(|(key, ranks)| (key, Bucket::new(ranks, entries))).collect();
            (!keys.is_empty()).then(|| Trie::new(keys))
        };
        Self {
            exact: table(exact),
            prefixes: trie(prefixes),
            folded_exact: table(folded_exact),
            folded_prefixes: trie(folded_prefixes),
            grpc_methods: table(grpc_methods),
        }
    }

    fn collect<'a>(&'a self, request: &RequestView<'_>, into: &mut Candidates<'a>) {
        let path = request.path;
        if let Some(bucket) = self.exact.get(path) {
            bucket.collect(request, into);
        }
        if let Some(trie) = &self.prefixes {
            trie.collect(path.as_bytes(), request, into);
        }
        if !self.folded_exact.is_empty() || self.folded_prefixes.is_some() {
            let folded = path.to_ascii_lowercase();
            if let Some(bucket) = self.folded_exact.get(&*folded) {
                bucket.collect(request, into);
            }
            if let Some(trie) = &self.folded_prefixes {
                trie.collect(folded.as_bytes(), request, into);
            }
        }
        if !self.grpc_methods.is_empty()
            && let Some(bucket) = entry::grpc_method(path).and_then(|method| self.grpc_methods.get(method))
        {
            bucket.collect(request, into);
        }
    }
}
