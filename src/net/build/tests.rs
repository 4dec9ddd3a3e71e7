use super::*;
use crate::params::{Holders, Placement};

fn plan(name: &str, classes: i64, site: Site) -> Plan {
    let arch = Architecture::by_name(name, classes, 0.5).expect("known");
    Plan::new(&arch, site).expect("the columns divide every layer")
}

const FIRST_OF_TWO: Site = Site { part: 0, num_parts: 2, cut: Cut::Columns };
const LAST_SLICE_OF_THREE: Site = Site { part: 2, num_parts: 3, cut: Cut::FullyConnected };

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
            Step::Gather(_, gradient) => Some((l.name, gradient)),
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
fn hybrid_ranks_hold_all_convolutions_and_a_slice_of_every_fully_connected_layer() {
    for name in crate::net::arch::NAMES {
        let whole = plan(name, 10, Site::WHOLE).params;
        let slice = plan(name, 10, LAST_SLICE_OF_THREE).params;
        for (whole, slice) in whole.iter().zip(&slice) {
            if whole.name.starts_with("conv") {
                assert_eq!(whole, slice, "{name}");
                continue;
            }
            let total = whole.shape[0];
            let rows = total / 3; // the last slice has none of the remainder
            let placement = Placement::Rows { first: total - rows, rows, total };
            let (shape, held) = (slice.shape[0], (slice.placement, slice.holders));
            assert_eq!((shape, held), (rows, (placement, Holders::OneRank)), "{name}");
        }
    }
}

#[test]
fn slices_see_the_whole_batch_and_hand_back_shares() {
    for (name, dropout) in [("alexnet", Images::Batch), ("alexnet-owt", Images::Share)] {
        let layers = plan(name, 1000, LAST_SLICE_OF_THREE).layers;
        let exchanges: Vec<_> = layers
            .iter()
            .filter(|l| matches!(l.step, Step::Gather(..) | Step::Scatter(_)))
            .map(|l| (l.name.as_str(), l.step.clone(), &l.output[..]))
            .collect();
        let gather = |parts| Step::Gather(parts, GatherGradient::Partial);
        let expected = [
            ("gather6", gather(Parts::Images), &[9216][..]),
            ("gather7", gather(Parts::Channels(4096)), &[4096]),
            ("gather8", gather(Parts::Channels(4096)), &[4096]),
            ("scatter8", Step::Scatter(1000), &[1000]),
        ];
        assert_eq!(exchanges, expected, "{name}");
        // The first dropout stands behind the gather in the paper and before it in torchvision.
        let first = layers.iter().find_map(|l| match l.step {
            Step::Dropout { images, .. } => Some(images),
            _ => None,
        });
        assert_eq!(first, Some(dropout), "{name}");
    }
}

#[test]
fn one_device_talks_to_nobody() {
    let alone = Site { cut: Cut::FullyConnected, ..Site::WHOLE };
    for name in crate::net::arch::NAMES {
        let whole = plan(name, 10, Site::WHOLE);
        let talks = |l: &Planned| matches!(l.step, Step::Gather(..) | Step::Scatter(_));
        assert!(!whole.layers.iter().any(talks), "{name}");
        assert_eq!(plan(name, 10, alone), whole, "{name}");
    }
}

#[test]
fn names_are_unique() {
    for name in crate::net::arch::NAMES {
        for site in [Site::WHOLE, FIRST_OF_TWO, LAST_SLICE_OF_THREE] {
            let mut names: Vec<_> =
                plan(name, 10, site).layers.into_iter().map(|l| l.name).collect();
            let num = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), num, "{name}");
        }
    }
}

/// How the convolutions of a network are computed on a GPU.
fn groups(name: &str, site: Site, kind: Kind) -> Vec<(String, Groups)> {
    let plan = plan(name, 10, site);
    let convolutions = plan.layers.iter().enumerate();
    let convolutions = convolutions.filter(|(_, l)| matches!(l.step, Step::Conv { .. }));
    convolutions.map(|(at, l)| (l.name.clone(), plan.groups_on_gpu(at, kind))).collect()
}

#[test]
fn groups_are_stacked_where_the_layers_around_keep_them_apart() {
    use Groups::{AsOne, Grouped, Stacked};
    for kind in [Kind::BFloat16, Kind::Double] {
        for (name, site, expected) in [
            ("alexnet", Site::WHOLE, [Grouped, Stacked, Grouped, Stacked, Stacked]),
            // A column has no groups.
            ("alexnet", FIRST_OF_TWO, [Grouped; 5]),
            // Its normalisation stands behind the pooling, where nothing stacks what it writes.
            ("alexnet-cifar", Site::WHOLE, [Grouped, AsOne, Grouped, Stacked, Stacked]),
            ("alexnet-owt", Site::WHOLE, [Grouped; 5]),
        ] {
            let found: Vec<_> = groups(name, site, kind).into_iter().map(|(_, g)| g).collect();
            assert_eq!(found, expected, "{name} {site:?} {kind:?}");
        }
    }
}

#[test]
fn stacks_begin_and_end_at_the_layers_around_stacked_convolutions() {
    let plan = plan("alexnet", 10, Site::WHOLE);
    let stacks: Vec<_> = (0..plan.layers.len())
        .filter(|&at| plan.layers[at].step == Step::Relu)
        .map(|at| plan.stacks_around(at, plan.fused_at(at).1, Kind::BFloat16))
        .map(|Stacks { input, output }| (input, output))
        .collect();
    assert_eq!(stacks, [(1, 2), (2, 1), (1, 2), (2, 2), (2, 1), (1, 1), (1, 1)]);
}
