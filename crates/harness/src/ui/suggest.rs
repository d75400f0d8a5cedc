//! "Did you mean …?"

/// The known word that is nearest to `word`, if one is near enough to be what was meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| {
            let longest = word.chars().count().max(candidate.chars().count());
            *distance <= longest.div_ceil(3) && *distance < longest
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The sentence for an unknown name: the nearest one, else what there is (at most ten).
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = nearest(word, known.clone()) {
        return format!("did you mean '{near}'?");
    }
    let mut known: Vec<&str> = known.into_iter().collect();
    let total = known.len();
    if total == 0 {
        return "there is none".into();
    }
    known.truncate(10);
    let more = if total > 10 { format!(", and {} more", total - 10) } else { String::new() };
    format!("there is: {}{more}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_far_ones_are_not() {
        let known = ["web", "worker", "database", "cache"];
        for (word, near) in [
            ("wbe", Some("web")),
            ("workr", Some("worker")),
            ("databse", Some("database")),
            ("kache", Some("cache")),
            ("xyz", None),
            ("q", None),
        ] {
            assert_eq!(nearest(word, known), near, "{word}");
        }
        assert_eq!(did_you_mean("zzz", known), "there is: web, worker, database, cache");
        assert_eq!(did_you_mean("zzz", []), "there is none");
    }
}
