//! The time of every kernel on the shapes of the paper's network, and the bandwidth that makes.
//!
//! Bytes are the ideal ones: each input read once, each output written once. The copy they are
//! compared with is the driver's own, read and write counted.

use anyhow::Result;
use half::bf16;
use serde_json::{Value, json};

use crate::kernels::cuda::gpu::Lane;
use crate::kernels::cuda::program::CudaReal;
use crate::kernels::cuda::relu_lrn_pool::Input;
use crate::kernels::cuda::update::{Arrays, Run};
use crate::kernels::cuda::{
    Buffer, CudaError, bias, cross_entropy, dropout, finish, fold, relu_lrn_pool, update,
};
use crate::kernels::dropout::Dropout;
use crate::kernels::fold::Fold;
use crate::kernels::lrn::Lrn;
use crate::kernels::pool::{Map, MaxPool};
use crate::kernels::relu_lrn_pool::ReluLrnPool;
use crate::kernels::stacks::Stacks;
use crate::random::{Key, Purpose};

const WARM_UP: usize = 50;
const ITERATIONS: usize = 200;

/// Parameters of the paper's network.
const NUM_PARAMS: usize = 60_965_224;

/// The measurements so far, and the bandwidth of a copy.
struct Table {
    lane: Lane,
    copy_gb_s: f64,
    rows: Vec<Value>,
}

impl Table {
    /// Times `work`, which moves `num_bytes`.
    fn add(
        &mut self,
        name: String,
        num_bytes: usize,
        work: impl FnMut() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let us = self.lane.time_us(WARM_UP, ITERATIONS, work)?;
        let gb_s = num_bytes as f64 / us / 1e3;
        self.rows.push(json!({
            "kernel": name,
            "us": us,
            "bytes": num_bytes,
            "gb_s": gb_s,
            "share_of_copy": gb_s / self.copy_gb_s,
        }));
        Ok(())
    }
}

pub(super) fn measure(lane: Lane, batch: usize) -> Result<Value> {
    let mut table = Table { lane, copy_gb_s: copy_gb_s(lane)?, rows: Vec::new() };
    of_type::<bf16>(&mut table, "bf16", batch)?;
    of_type::<f32>(&mut table, "f32", batch)?;
    Ok(json!({ "batch": batch, "copy_gb_s": table.copy_gb_s, "kernels": table.rows }))
}

fn copy_gb_s(lane: Lane) -> Result<f64, CudaError> {
    const BYTES: usize = 1 << 29;
    let from = Buffer::<u8>::zeros(&lane, BYTES)?;
    let mut to = Buffer::<u8>::zeros(&lane, BYTES)?;
    let us = lane.time_us(WARM_UP, ITERATIONS, || lane.copy(from.slice(), &mut to.slice_mut()))?;
    Ok(2.0 * BYTES as f64 / us / 1e3)
}

fn of_type<T: CudaReal>(table: &mut Table, element: &str, batch: usize) -> Result<(), CudaError> {
    let lrn = Some(Lrn::PAPER);
    let [before, behind] = [(1, 2), (2, 1)].map(|(input, output)| Stacks { input, output });
    for (name, lrn, side, channels, stacks) in [
        ("relu1+norm1+pool1", lrn, 55, 96, before),
        ("relu2+norm2+pool2", lrn, 27, 256, behind),
        ("relu5+pool5", None, 13, 256, behind),
    ] {
        let groups = if lrn.is_some() { 2 } else { 1 };
        let rule = ReluLrnPool { lrn, groups, pool: MaxPool { window: 3, stride: 2 } };
        let map = Map { num_images: batch, height: side, width: side, channels };
        maps::<T>(table, &format!("{name} {element}"), &rule, map, stacks)?;
    }
    biased::<T>(table, element, batch)?;
    folded::<T>(table, element, batch)?;
    dropped::<T>(table, element, batch)?;
    updated::<T>(table, element)?;
    softmax::<T>(table, element, batch)?;
    finished::<T>(table, element, batch)
}

fn maps<T: CudaReal>(
    table: &mut Table,
    name: &str,
    rule: &ReluLrnPool,
    map: Map,
    stacks: Stacks,
) -> Result<(), CudaError> {
    let (on, len) = (table.lane, rule.pool.output(map).num_elements());
    // Noise, so that branches and comparisons go as in training.
    let key = Key::new(1, Purpose::Generate);
    let noise = |len: usize| -> Vec<T> {
        let value = |i| T::narrow(crate::kernels::real::Wide::from_f64(key.uniform(i) - 0.4));
        (0..len as u64).map(value).collect()
    };
    let (a, dy) = (Buffer::of(&on, &noise(map.num_elements()))?, Buffer::of(&on, &noise(len))?);
    let bias = Buffer::of(&on, &noise(map.channels))?;
    let input = Input { a: a.slice(), bias: Some(bias.slice()), map, stacks };
    let mut y = Buffer::<T>::zeros(&on, len)?;
    let mut argmax = Buffer::<u8>::zeros(&on, len)?;
    let mut da = Buffer::<T>::zeros(&on, map.num_elements())?;
    let (elements, pooled) = (map.num_elements() * size_of::<T>(), len * size_of::<T>());
    table.add(format!("{name} forward"), elements + pooled + len, || {
        let (y, argmax) = (&mut y.slice_mut(), &mut argmax.slice_mut());
        relu_lrn_pool::forward(&on, rule, input, y, argmax)
    })?;
    table.add(format!("{name} backward"), 2 * elements + pooled + len, || {
        let da = &mut da.slice_mut();
        relu_lrn_pool::backward(&on, rule, input, dy.slice(), argmax.slice(), da)
    })
}

/// conv3's and conv4's bias and ReLU, and the gradient of conv1's bias.
fn biased<T: CudaReal>(table: &mut Table, element: &str, batch: usize) -> Result<(), CudaError> {
    let on = table.lane;
    let mut a = Buffer::<T>::zeros(&on, batch * 13 * 13 * 384)?;
    let bias = Buffer::<T>::zeros(&on, 384)?;
    let num_bytes = a.slice().len() * size_of::<T>();
    table.add(format!("bias+relu4 {element}"), 2 * num_bytes, || {
        bias::relu(&on, &mut a.slice_mut(), bias.slice())
    })?;
    let mut y = Buffer::<T>::zeros(&on, a.slice().len())?;
    table.add(format!("bias+relu3 {element}"), 2 * num_bytes, || {
        bias::relu_into_stacks(&on, a.slice(), bias.slice(), &mut y.slice_mut(), 2)
    })?;
    let dy = Buffer::<T>::zeros(&on, a.slice().len())?;
    table.add(format!("relu3 backward {element}"), 3 * num_bytes, || {
        let given = [y.slice(), dy.slice()];
        bias::unrelu_from_stacks(&on, given, &mut a.slice_mut(), 384, 2)
    })?;
    let (rows, channels) = (batch * 55 * 55, 96);
    let da = Buffer::<T>::zeros(&on, rows * channels)?;
    let mut partial = Buffer::<T::Wide>::zeros(&on, bias::num_partial_sums(rows, channels))?;
    let mut db = Buffer::<T>::zeros(&on, channels)?;
    table.add(format!("bias1 gradient {element}"), rows * channels * size_of::<T>(), || {
        bias::gradient(&on, da.slice(), &mut partial.slice_mut(), &mut db.slice_mut())
    })
}

/// conv1's input.
fn folded<T: CudaReal>(table: &mut Table, element: &str, batch: usize) -> Result<(), CudaError> {
    let on = table.lane;
    let rule = Fold { stride: 4, padding: 0, rows: 57, columns: 57 };
    let map = Map { num_images: batch, height: 227, width: 227, channels: 3 };
    let images = Buffer::<T>::zeros(&on, map.num_elements())?;
    let mut out = Buffer::<T>::zeros(&on, rule.output(map).num_elements())?;
    let elements = map.num_elements() + rule.output(map).num_elements();
    table.add(format!("fold1 {element}"), elements * size_of::<T>(), || {
        fold::fold(&on, &rule, images.slice(), &mut out.slice_mut(), map)
    })
}

fn dropped<T: CudaReal>(table: &mut Table, element: &str, batch: usize) -> Result<(), CudaError> {
    const UNITS: usize = 4096;
    let (on, rule) = (table.lane, Dropout { rate: 0.5, scale: 2.0 });
    let x = Buffer::<T>::zeros(&on, batch * UNITS)?;
    let mut y = Buffer::<T>::zeros(&on, batch * UNITS)?;
    let key = (Key::new(1, Purpose::Dropout), 0);
    table.add(format!("dropout6 {element}"), 2 * batch * UNITS * size_of::<T>(), || {
        dropout::apply(&on, &rule, x.slice(), &mut y.slice_mut(), 0..UNITS as u64, key)
    })
}

fn updated<T: CudaReal>(table: &mut Table, element: &str) -> Result<(), CudaError> {
    let on = table.lane;
    let mut weights = Buffer::<T::Wide>::zeros(&on, NUM_PARAMS)?;
    let mut velocity = Buffer::<T::Wide>::zeros(&on, NUM_PARAMS)?;
    let gradient = Buffer::<T>::zeros(&on, NUM_PARAMS)?;
    let mut copy = Buffer::<bf16>::zeros(&on, NUM_PARAMS)?;
    let has_copy = size_of::<T>() < size_of::<T::Wide>();
    let bytes = 4 * size_of::<T::Wide>() + size_of::<T>() + if has_copy { 2 } else { 0 };
    let run = Run { gradient: 0, weight: 0, state: 0, len: NUM_PARAMS, lr: 0.01, decay: 5e-4 };
    table.add(format!("momentum {element}"), NUM_PARAMS * bytes, || {
        let mut arrays = Arrays {
            weights: weights.slice_mut(),
            state: vec![velocity.slice_mut()],
            gradient: gradient.slice(),
            copy: has_copy.then(|| copy.slice_mut()),
        };
        update::momentum(&on, 0.9, &mut arrays, &[run])
    })
}

fn softmax<T: CudaReal>(table: &mut Table, element: &str, batch: usize) -> Result<(), CudaError> {
    const CLASSES: usize = 1000;
    let on = table.lane;
    let logits = Buffer::<T>::zeros(&on, batch * CLASSES)?;
    let labels = Buffer::<i64>::zeros(&on, batch)?;
    let mut dlogits = Buffer::<T>::zeros(&on, batch * CLASSES)?;
    let mut losses = Buffer::<T::Wide>::zeros(&on, batch)?;
    let bytes = 2 * batch * CLASSES * size_of::<T>();
    table.add(format!("cross-entropy {element}"), bytes, || {
        let (dlogits, losses) = (&mut dlogits.slice_mut(), &mut losses.slice_mut());
        let labels = labels.slice();
        cross_entropy::cross_entropy(&on, logits.slice(), labels, dlogits, losses, 1.0)
    })
}

fn finished<T: CudaReal>(table: &mut Table, element: &str, batch: usize) -> Result<(), CudaError> {
    const CROP: usize = 227;
    let on = table.lane;
    let pixels = Buffer::<u8>::zeros(&on, batch * CROP * CROP * 3)?;
    let side = CROP as i32;
    let windows: Vec<i32> = (0..batch as i32).flat_map(|i| [0, 0, side, side, i % 2]).collect();
    let windows = Buffer::of(&on, &windows)?;
    let offsets = Buffer::<f32>::zeros(&on, batch * 3)?;
    let mut out = Buffer::<T>::zeros(&on, batch * CROP * CROP * 3)?;
    table.add(format!("finish {element}"), batch * CROP * CROP * 3 * (1 + size_of::<T>()), || {
        let images = finish::Finish {
            pixels: pixels.slice(),
            crop: CROP,
            windows: windows.slice(),
            offsets: offsets.slice(),
            scale: [1.0; 3],
        };
        finish::finish(&on, &images, &mut out.slice_mut())
    })
}
