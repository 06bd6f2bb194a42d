//! Prefixes of paths, found by walking down the path once.

use super::bucket::{Bucket, Candidates};
use super::request::RequestView;

/// A radix tree over bytes. Nodes refer to each other by index.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    /// What the path must go on with after the parent's.
    label: Box<[u8]>,
    /// Sorted by the first byte of their labels.
    children: Box<[(u8, u32)]>,
    bucket: Option<Box<Bucket>>,
}

impl Trie {
    /// `keys` in order, each once.
    pub(super) fn new(keys: Vec<(Vec<u8>, Bucket)>) -> Self {
        let mut trie = Self { nodes: Vec::with_capacity(keys.len() + 1) };
        let mut keys: Vec<(Vec<u8>, Option<Bucket>)> =
            keys.into_iter().map(|(key, bucket)| (key, Some(bucket))).collect();
        trie.build(&mut keys, 0, 0);
        trie
    }

    /// Adds the node for keys that agree in their first `end` bytes, of which the parent has `begin`.
    fn build(&mut self, keys: &mut [(Vec<u8>, Option<Bucket>)], begin: usize, end: usize) -> u32 {
        let index = self.nodes.len();
        let label = keys.first().map_or(&[][..], |(key, _)| &key[begin..end]).into();
        self.nodes.push(Node { label, children: Box::default(), bucket: None });
        let mut rest = keys;
        if let Some((key, bucket)) = rest.first_mut()
            && key.len() == end
        {
            self.nodes[index].bucket = bucket.take().map(Box::new);
            rest = &mut rest[1..];
        }
        let mut children = Vec::new();
        while let Some(first) = rest.first().map(|(key, _)| key[end]) {
            let count = rest.iter().take_while(|(key, _)| key[end] == first).count();
            let (group, others) = rest.split_at_mut(count);
            let shared = shared_length(&group[0].0, &group[count - 1].0);
            children.push((first, self.build(group, end, shared)));
            rest = others;
        }
        self.nodes[index].children = children.into();
        index as u32
    }

    /// Candidates of every prefix that `path` has.
    pub(super) fn collect<'a>(&'a self, path: &[u8], request: &RequestView<'_>, into: &mut Candidates<'a>) {
        let mut node = &self.nodes[0];
        let mut rest = path;
        loop {
            let Some(after) = rest.strip_prefix(&*node.label) else { return };
            rest = after;
            if let Some(bucket) = &node.bucket {
                bucket.collect(request, into);
            }
            let Some(next) = rest.first() else { return };
            let Ok(child) = node.children.binary_search_by_key(next, |(first, _)| *first) else { return };
            node = &self.nodes[node.children[child].1 as usize];
        }
    }
}

fn shared_length(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
