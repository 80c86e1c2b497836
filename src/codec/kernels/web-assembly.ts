/**
 * The part of the WebAssembly API that the kernels use. TypeScript has its types only with those of the DOM, which the server does without.
 */
interface WebAssemblyApi {
  /** @throws WebAssembly.CompileError for bytes that are no module, or where SIMD is missing. */
  readonly Module: new (
    bytes: Uint8Array<ArrayBuffer>,
  ) => WasmModule
  readonly Instance: new (module: WasmModule) => { readonly exports: object }
}

declare const opaque: unique symbol
/** A compiled module, `WebAssembly.Module`: it can be sent to workers and opened there once more. */
export interface WasmModule {
  readonly [opaque]?: never
}

/** An exported global of type i32. */
export interface WasmAddress {
  readonly value: number
}

declare const WebAssembly: WebAssemblyApi

export const { Module, Instance } = WebAssembly
