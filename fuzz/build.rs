//! Lists the modules of the workspace's model test for the target that uses them.

use std::{env, fmt::Write as _, fs, path::Path};

fn main() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/model");
    println!("cargo::rerun-if-changed={}", model.display());
    let mut files: Vec<_> = fs::read_dir(model)
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    let mut list = String::new();
    for path in files.iter().filter(|path| !path.ends_with("main.rs")) {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a module's name");
        writeln!(list, "#[path = {path:?}]\nmod {name};").expect("a String takes every write");
    }
    let out = env::var("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&out).join("model.rs"), list).expect("it can be written");
}
