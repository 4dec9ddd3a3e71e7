//! Zeros on the right and at the bottom only are what they are on an input that has them.

use tch::{Device, Kind, Tensor};

use super::Conv;
use crate::collective::Solo;
use crate::net::arch::{Architecture, InputForm};
use crate::net::build::{Plan, Site};
use crate::net::{Layer, Mode, Pass};
use crate::params::Param;
use crate::random::{Key, Purpose};
use crate::torch_ext::{ConvGeometry, InputGradient};

fn numbers(shape: &[i64], stream: u64) -> Tensor {
    let key = Key::new(stream, Purpose::Init);
    let num = shape.iter().product::<i64>() as u64;
    let values: Vec<f64> = (0..num).map(|i| key.normal(i)).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Parameters of their own with the same values every time.
fn parameters(filters: [i64; 4]) -> (Param, Param) {
    let param = |shape: &[i64], stream| Param {
        weight: numbers(shape, stream),
        grad: Tensor::zeros(shape, (Kind::Double, Device::Cpu)),
        range: 0..1,
    };
    (param(&filters, 1), param(&filters[..1], 2))
}

/// Output, input gradient, weight gradient and bias gradient of one pass.
fn pass(conv: Conv, x: &Tensor) -> (Tensor, Option<Tensor>, Tensor, Tensor) {
    let mut conv = conv;
    let dropout = Key::new(1, Purpose::Dropout);
    let pass = Pass { mode: Mode::Train, dropout, first: 0, columns: &Solo, shares: &[2] };
    let y = conv.forward(x.copy(), &pass).expect("shapes agree");
    let dx = conv.backward(numbers(&y.size(), 4), &pass).expect("after a forward");
    (y, dx, conv.w.grad.copy(), conv.b.grad.copy())
}

#[test]
fn a_filled_convolution_is_the_one_on_an_input_padded_by_hand_to_the_bit() {
    let cases = [
        // The first layer, folded.
        (28, 3, [5, 3, 11, 11], ConvGeometry { stride: 4, padding: 0, groups: 1 }),
        (26, 1, [5, 3, 11, 11], ConvGeometry { stride: 4, padding: 2, groups: 1 }),
        // Not folded.
        (9, 2, [6, 2, 5, 5], ConvGeometry { stride: 1, padding: 0, groups: 2 }),
    ];
    for (side, fill, filters, geometry) in cases {
        let x = numbers(&[2, side, side, filters[1] * geometry.groups], 3);
        let padded = x.constant_pad_nd([0, 0, 0, fill, 0, fill]);
        for input in [InputGradient::Needed, InputGradient::Unused] {
            let conv = || {
                let (w, b) = parameters(filters);
                Conv::new("conv".into(), w, b, geometry, input)
            };
            let (y, dx, dw, db) = pass(conv().filled(fill), &x);
            let (y_padded, dx_padded, dw_padded, db_padded) = pass(conv(), &padded);
            assert_eq!((y, dw, db), (y_padded, dw_padded, db_padded), "{geometry:?}");
            let inside = |dx: Tensor| dx.narrow(1, 0, side).narrow(2, 0, side);
            assert_eq!(dx, dx_padded.map(inside), "{geometry:?}");
            assert_eq!(dx.is_some(), input == InputGradient::Needed);
        }
    }
}

#[test]
fn every_form_of_the_input_gives_the_papers_first_maps_and_the_same_parameters() {
    for name in ["alexnet", "alexnet-owt"] {
        let own = Architecture::by_name(name, 10, 0.5).expect("known");
        let params = Plan::new(&own, Site::WHOLE).expect("one device").params;
        for (form, side) in [
            (InputForm::Side227, 227),
            (InputForm::Side224Padded, 224),
            (InputForm::Side224Filled, 224),
        ] {
            let arch = own.clone().with_input(form).expect("11 x 11 filters");
            assert_eq!(arch.input, side);
            let plan = Plan::new(&arch, Site::WHOLE).expect("one device");
            assert_eq!(plan.layers[0].output[..2], [55, 55], "{name} {form:?}");
            assert_eq!(plan.params, params, "{name} {form:?}");
        }
    }
    let small = Architecture::by_name("alexnet-cifar", 10, 0.5).expect("known");
    assert_eq!(small.with_input(InputForm::Side227), None);
}
