//! The recipes of `docs/recipes`: each has a configuration that is accepted as
//! written. That it also works is the business of its kind's own tests.

use std::collections::BTreeSet;

use super::support::{Recipe, recipes, run};

/// The pages that the table of `docs/recipes/README.md` links.
fn listed() -> Vec<String> {
    let index = std::fs::read_to_string(recipes().join("README.md")).expect("the table");
    let rows = index.lines().filter(|line| line.starts_with('|'));
    let links = rows.flat_map(|row| row.split("](").skip(1));
    let pages: Vec<String> =
        links.filter_map(|link| link.split_once(')').map(|(page, _)| page.to_owned())).collect();
    assert!(!pages.is_empty(), "the table lists no page");
    pages
}

#[test]
fn every_recipe_is_listed_and_every_page_listed_exists() {
    let pages = std::fs::read_dir(recipes())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in ASCII"));
    let pages: BTreeSet<String> = pages.filter(|name| name != "README.md").collect();
    let listed = BTreeSet::from_iter(listed());
    assert_eq!(listed, pages, "left: what README.md lists; right: what is there");
}

#[test]
fn every_config_of_every_recipe_is_accepted_as_written() {
    for page in listed() {
        let recipe = Recipe::read(&page);
        let directory = recipe.directory();
        for config in recipe.configs() {
            let path = directory.path().join("sockgate.yaml");
            std::fs::write(&path, config).expect("written");
            let environment = variables(config);
            let environment: Vec<(&str, &str)> =
                environment.iter().map(|name| (name.as_str(), SECRET)).collect();
            let outcome = run(&["check", "--config", path.to_str().expect("UTF-8")], &environment);
            assert_eq!(outcome.code, 0, "{page}: {}\n{config}", outcome.stderr);
        }
    }
}

/// Long enough for every use.
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Every NAME of an `{ env: NAME }`.
fn variables(config: &str) -> Vec<String> {
    let uses = config.split("env: ").skip(1);
    let name = |rest: &str| rest.split([' ', '}', ',', '\n']).next().map(str::to_owned);
    uses.filter_map(name).collect()
}
