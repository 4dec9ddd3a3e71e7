use std::fs;
use std::path::Path;

use super::*;
use crate::data::{Fit, GeneratedSpec, Split, generate, open};

/// A small image set with fitted statistics.
fn images(root: &Path) -> (Config, Stats) {
    let dir = root.join("images");
    generate(&dir, &GeneratedSpec { seed: 1, size: 16, num_train: 20, num_test: 10 })
        .expect("a writable folder");
    let source = open(&dir, Split::Train).expect("just made");
    let fit = Fit { source, resize: 16, limit: None, workers: 1, max_bad_fraction: 0.0 };
    let stats = fit.run(|| ()).expect("good images");
    stats.write(&dir.join(Stats::FILE)).expect("writable");
    let mut config = Config::default();
    config.data.path = dir.display().to_string();
    config.data.resize = 16;
    config.data.stats = StatsFrom::Fitted;
    (config, stats)
}

fn error(config: &Config) -> String {
    format!("{:#}", Colours::find(config).expect_err("it cannot be found"))
}

#[test]
fn by_default_the_colours_are_the_papers_and_with_its_recipe_torchvisions() {
    let colours = Colours::find(&Config::default()).expect("constants");
    assert_eq!(colours.normalisation, Normalisation::new([127.30, 119.72, 104.91], [1.0; 3]));
    assert_eq!(colours.lighting, Lighting::from(crate::data::LightingScale::Std));
    let mut config = Config::default();
    config.data.augment = Augment::Torchvision;
    let normalisation = Colours::find(&config).expect("constants").normalisation;
    for (c, mean, std) in [(0, 0.485, 0.229), (1, 0.456, 0.224), (2, 0.406, 0.225)] {
        assert!((normalisation.mean[c] / 255.0 - mean).abs() < 1e-6);
        assert!((normalisation.std[c] / 255.0 - std).abs() < 1e-6);
    }
}

#[test]
fn what_is_found_is_recorded_and_found_again_without_the_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut config, stats) = images(dir.path());
    for augment in [Augment::Paper, Augment::Torchvision, Augment::CropFlip] {
        config.data.augment = augment;
        let found = Colours::find(&config).expect("the file is there");
        let resolved = resolved(&config).expect("the file is there");
        let toml = resolved.to_toml();
        let mut read = Config::from_toml("saved", &toml, vec![]).expect("a saved configuration");
        assert_eq!(read, resolved);
        read.data.path = "gone".into();
        let again = Colours::find(&read).expect("the numbers are in the configuration");
        assert_eq!(again.normalisation, found.normalisation);
        assert_eq!(again.lighting, found.lighting);
        let mean = stats.colours.mean.map(|x| x as f32);
        assert_eq!(found.normalisation.mean, mean);
        let std = match augment {
            Augment::Torchvision => stats.colours.std.map(|x| x as f32),
            _ => [1.0; 3],
        };
        assert_eq!(found.normalisation.std, std);
        assert_ne!(found.lighting, Lighting::from(config.data.lighting_scale));
    }
}

#[test]
fn numbers_in_the_configuration_win_over_statistics() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut config, _) = images(dir.path());
    config.data.mean = Mean::Colour([1.0, 2.0, 3.0]);
    config.data.std = [4.0, 5.0, 6.0].into();
    config.data.components =
        [[7.0, 1.0, 0.0, 0.0], [8.0, 0.0, 1.0, 0.0], [9.0, 0.0, 0.0, 1.0]].into();
    let colours = Colours::find(&config).expect("all is given");
    assert_eq!(colours.normalisation, Normalisation::new([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]));
    let directions = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let components = Components { deviations: [7.0, 8.0, 9.0], directions };
    assert_eq!(colours.lighting, Lighting::new(config.data.lighting_scale, &components));
}

#[test]
fn a_mean_image_has_to_be_there_and_of_the_size_of_the_frames() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut config, stats) = images(dir.path());
    config.data.mean = Mean::IMAGE;
    let colours = Colours::find(&config).expect("it is there");
    assert_eq!(colours.normalisation.mean_image, stats.mean_image);
    assert_eq!(colours.stats.as_deref(), Some(&stats));
    assert_eq!(resolved(&config).expect("it is there").data.mean, Mean::IMAGE);
    config.data.resize = 20;
    assert!(error(&config).contains("is 16x16 and data.resize is 20"), "{}", error(&config));
    config.data.resize = 16;
    let file = Path::new(&config.data.path).join(Stats::FILE);
    Stats { mean_image: None, ..stats }.write(&file).expect("writable");
    assert!(error(&config).contains("different sizes"), "{}", error(&config));
    fs::remove_file(file).expect("it was there");
    let error = error(&config);
    for part in [Stats::FILE, "`alexnet-mgpu stats ", "--resize 16`", "\"imagenet\""] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}
