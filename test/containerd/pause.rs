//! A sandbox's process: keeps its namespaces until it is killed.
fn main() {
    loop {
        std::thread::park();
    }
}
