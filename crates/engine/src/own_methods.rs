//! The traits of stores, for types with methods of the same names.

/// Implements reading by a type's own methods. The generics come first, in braces.
macro_rules! reads_by_own_methods {
    ({ $($generics:tt)* } $target:ty) => {
        impl<$($generics)*> $crate::traits::KvReader for $target {
            fn get(&self, key: &[u8]) -> $crate::error::Result<Option<$crate::value::Value>> {
                Self::get(self, key)
            }

            fn get_versioned(&self, key: &[u8]) -> $crate::error::Result<Option<($crate::value::Value, u64)>> {
                Self::get_versioned(self, key)
            }

            fn contains_key(&self, key: &[u8]) -> $crate::error::Result<bool> {
                Self::contains_key(self, key)
            }

            fn range(
                &self,
                from: std::ops::Bound<&[u8]>,
                to: std::ops::Bound<&[u8]>,
            ) -> $crate::error::Result<$crate::traits::Pairs<'_>> {
                Ok(Box::new(Self::range(self, (from, to))?.map(|entry| entry?.into_pair())))
            }
        }
    };
}
pub(crate) use reads_by_own_methods;

/// Implements reading and writing by a type's own methods. The generics come first, in braces.
macro_rules! by_own_methods {
    ({ $($generics:tt)* } $target:ty) => {
        const _: () = {
            use std::ops::Bound;

            use hightower_log::Command;
            use hightower_state::ApplyOutcome;

            use $crate::batch::{Batch, BatchOutcome};
            use $crate::config::Durability;
            use $crate::error::Result;
            use $crate::traits::{KvEngine, KvWriter, Pairs};
            use $crate::value::Value;

            impl<$($generics)*> KvEngine for $target {
                fn submit(&self, command: Command) -> Result<ApplyOutcome> {
                    Self::submit(self, command)
                }

                fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
                where
                    I: IntoIterator<Item = Command>,
                {
                    Self::submit_batch(self, commands)
                }

                fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
                    Self::commit(self, batch)
                }

                fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
                    Self::commit_with(self, batch, durability)
                }

                fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
                    Self::put(self, key, value)
                }

                fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
                    Self::delete(self, key)
                }

                fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
                    Self::get(self, key)
                }

                fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
                    Self::get_versioned(self, key)
                }

                fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
                    Self::get_prefix(self, prefix)
                }

                fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
                    self.range((from, to))?.collect_pairs(limit)
                }

                fn pairs(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
                    Ok(Box::new(self.range((from, to))?.map(|entry| entry?.into_pair())))
                }
            }

            impl<$($generics)*> KvWriter for $target {
                fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
                    Self::commit(self, batch)
                }

                fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
                    Self::commit_with(self, batch, durability)
                }

                fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
                    Self::put(self, key, value).map(drop)
                }

                fn delete(&self, key: &[u8]) -> Result<()> {
                    Self::delete(self, key).map(drop)
                }

                fn add(&self, key: &[u8], delta: i64) -> Result<i64> {
                    Self::add(self, key, delta)
                }

                fn merge(&self, key: &[u8], operator: &str, operand: &[u8]) -> Result<Option<Value>> {
                    Self::merge(self, key, operator, operand)
                }
            }
        };
        $crate::own_methods::reads_by_own_methods!({ $($generics)* } $target);
    };
}
pub(crate) use by_own_methods;
