use super::*;

fn plan(name: &str, classes: i64, site: Site) -> Plan {
    let arch = Architecture::by_name(name, classes, 0.5).expect("known");
    Plan::new(&arch, site).expect("the columns divide every layer")
}

const FIRST_OF_TWO: Site = Site { column: 0, columns: 2 };

#[test]
fn parameters_and_multiplications_are_the_published_ones() {
    let paper = plan("alexnet", 1000, Site::WHOLE);
    assert_eq!((paper.num_params(), paper.num_macs()), (60_965_224, 724_406_816));
    assert_eq!(plan("alexnet", 10, Site::WHOLE).num_params(), 56_909_194);
    let owt = plan("alexnet-owt", 1000, Site::WHOLE);
    assert_eq!((owt.num_params(), owt.num_macs()), (61_100_840, 714_188_480));
    assert_eq!(plan("alexnet-owt", 10, Site::WHOLE).num_params(), 57_044_810);
}

#[test]
fn the_first_of_two_columns_holds_what_the_first_gpu_of_the_paper_held() {
    let column = plan("alexnet", 1000, FIRST_OF_TWO);
    assert_eq!((column.num_params(), column.num_macs()), (32_531_112, 364_251_408));
}

#[test]
fn columns_talk_where_the_paper_says_and_nowhere_else() {
    let gathers: Vec<_> = plan("alexnet", 1000, FIRST_OF_TWO)
        .layers
        .into_iter()
        .filter_map(|l| match l.step {
            Step::Gather(gradient) => Some((l.name, gradient)),
            _ => None,
        })
        .collect();
    let expected = [
        ("gather3", GatherGradient::Partial),
        ("gather6", GatherGradient::Partial),
        ("gather7", GatherGradient::Partial),
        ("gather8", GatherGradient::Replicated),
    ];
    assert_eq!(gathers, expected.map(|(name, gradient)| (name.to_owned(), gradient)));
}

#[test]
fn one_device_never_gathers() {
    for name in crate::net::arch::NAMES {
        let layers = plan(name, 10, Site::WHOLE).layers;
        assert!(layers.iter().all(|l| !matches!(l.step, Step::Gather(_))), "{name}");
    }
}

#[test]
fn names_are_unique() {
    for name in crate::net::arch::NAMES {
        for site in [Site::WHOLE, FIRST_OF_TWO] {
            let mut names: Vec<_> =
                plan(name, 10, site).layers.into_iter().map(|l| l.name).collect();
            let num = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), num, "{name}");
        }
    }
}
