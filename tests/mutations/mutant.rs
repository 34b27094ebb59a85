//! Kernels that are wrong on purpose: the reference on a changed operation, or its result changed.

use std::sync::{Arc, OnceLock};

use ferrocerium::caps::Caps;
use ferrocerium::memory::Region;
use ferrocerium::op::{Convert, Dense, Op, OpKind, Operand};
use ferrocerium::registry::{Cost, Kernel, KernelInfo, Launch, Unsupported};
use ferrocerium::{DType, Device, Result};

/// Changes something of an operation, or of what comes out of one.
type Change<T> = Arc<dyn Fn(&Op, &mut T) + Send + Sync>;

/// What a mutant does wrong.
#[derive(Clone)]
pub enum Fault {
    /// Nothing.
    None,
    /// It runs another operation.
    Op(Arc<dyn Fn(&mut Op) + Send + Sync>),
    /// It changes the values of its last output, where that is plain, before they are rounded.
    Values(Change<Vec<f64>>),
    /// It changes the bytes of its outputs: of each the elements, or codes, scales and tensor scale.
    Bytes(Change<Vec<Vec<u8>>>),
}

impl Fault {
    pub fn op(change: impl Fn(&mut Op) + Send + Sync + 'static) -> Self {
        Fault::Op(Arc::new(change))
    }

    pub fn values(change: impl Fn(&Op, &mut Vec<f64>) + Send + Sync + 'static) -> Self {
        Fault::Values(Arc::new(change))
    }

    pub fn bytes(change: impl Fn(&Op, &mut Vec<Vec<u8>>) + Send + Sync + 'static) -> Self {
        Fault::Bytes(Arc::new(change))
    }
}

/// A fault by name.
pub type Named = (&'static str, Fault);

/// A kernel with a fault.
pub struct Mutant {
    info: KernelInfo,
    fault: Fault,
}

impl Mutant {
    pub fn new(op: OpKind, (name, fault): Named) -> Self {
        let name = format!("mutant.{}.{name}", op.name());
        Mutant { info: KernelInfo::new(name, op, "wrong on purpose"), fault }
    }
}

impl Kernel for Mutant {
    fn info(&self) -> &KernelInfo {
        &self.info
    }

    fn supports(&self, _op: &Op, _caps: &Caps) -> Result<(), Unsupported> {
        Ok(())
    }

    fn cost(&self, _op: &Op, _caps: &Caps) -> Cost {
        Cost { seconds: 1.0 }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let mut op = launch.op.clone();
        if let Fault::Op(change) = &self.fault {
            change(&mut op);
        }
        // The outputs are locked: the reference writes to copies.
        let mut copies: Vec<(&mut [u8], Region)> = Vec::new();
        for output in op.outputs_mut() {
            for region in regions_mut(output) {
                let bytes = launch.write(region)?;
                let buffer = reference().allocate(bytes.len(), "copy")?;
                buffer.write()?.copy_from_slice(bytes);
                *region = Region::whole(buffer);
                copies.push((bytes, region.clone()));
            }
        }
        reference().run(&op)?;
        if let Fault::Values(change) = &self.fault {
            change_values(&op, change.as_ref())?;
        }
        let mut results = Vec::new();
        for (_, region) in &copies {
            results.push(region.buffer().read()?.to_vec());
        }
        if let Fault::Bytes(change) = &self.fault {
            change(&op, &mut results);
        }
        for ((bytes, _), result) in copies.iter_mut().zip(&results) {
            bytes.copy_from_slice(result);
        }
        Ok(())
    }
}

fn regions_mut(operand: &mut Operand) -> Vec<&mut Region> {
    match operand {
        Operand::Dense(dense) => dense.data.iter_mut().collect(),
        Operand::Scaled(scaled) => match &mut scaled.data {
            Some(data) => [&mut data.codes, &mut data.scales]
                .into_iter()
                .chain(&mut data.tensor_scale)
                .collect(),
            None => Vec::new(),
        },
    }
}

/// Computes the last output again in f64, and stores what becomes of it.
fn change_values(op: &Op, change: &dyn Fn(&Op, &mut Vec<f64>)) -> Result<()> {
    let mut wide = op.clone();
    let mut outputs = wide.outputs_mut();
    let Some(last) = outputs.last_mut() else { return Ok(()) };
    let own = (*last).clone();
    let Some(dtype) = own.dtype() else { return Ok(()) };
    let size = own.dims().numel()?;
    // Indices have no f64.
    let mut values = if dtype.is_float() {
        **last = dense(&own.dims(), &vec![0.0; size]);
        let last = (*last).clone();
        reference().run(&wide)?;
        read(&last)
    } else {
        read(&own)
    };
    change(op, &mut values);
    reference().run(&Convert::new(dense(&own.dims(), &values), own).into())
}

pub fn reference() -> &'static Device {
    static REFERENCE: OnceLock<Device> = OnceLock::new();
    REFERENCE.get_or_init(Device::reference)
}

/// Values as an operand.
pub fn dense(dims: &[usize], values: &[f64]) -> Operand {
    let buffer = reference().allocate(size_of_val(values), "values").unwrap();
    buffer.write().unwrap().copy_from_slice(bytemuck::cast_slice(values));
    let mut dense = Dense::spec(DType::F64, dims).unwrap();
    dense.data = Some(Region::whole(buffer));
    dense.into()
}

/// The values of an operand.
pub fn read(operand: &Operand) -> Vec<f64> {
    let copy = dense(&operand.dims(), &vec![0.0; operand.dims().numel().unwrap()]);
    reference().run(&Convert::new(operand.clone(), copy.clone()).into()).unwrap();
    let region = copy.regions().next().unwrap();
    bytemuck::cast_slice(&region.buffer().read().unwrap()).to_vec()
}

/// The operand with values of its own instead, in place.
pub fn replace(operand: &mut Operand, change: impl FnOnce(&mut Vec<f64>)) {
    let mut values = read(operand);
    change(&mut values);
    *operand = dense(&operand.dims(), &values);
}

/// Puts other bytes in the place of a region's.
pub fn change_bytes(region: &mut Region, change: impl FnOnce(&mut [u8])) {
    let mut bytes = region.buffer().read().unwrap()[region.range()].to_vec();
    change(&mut bytes);
    let buffer = reference().allocate(bytes.len(), "changed").unwrap();
    buffer.write().unwrap().copy_from_slice(&bytes);
    *region = Region::whole(buffer);
}
