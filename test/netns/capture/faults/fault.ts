/** A row of the fault matrix: what goes wrong while traffic is attempted throughout. */
import type { Lab } from "../lab/lab.js";

export interface FaultWorld {
  readonly lab: Lab;
  /** Of the pods `client` and `server`: what stands in the kernel while all is well. */
  readonly intact: ReadonlyMap<string, string>;
  /** The processes before the fault, by name. */
  readonly before: ReadonlyMap<string, number>;
}

export interface Fault {
  readonly name: string;
  /** Lets it go wrong. */
  readonly strike: (world: FaultWorld) => Promise<void> | void;
  /** Whether the mesh has repaired what it can, by itself; asked until it has. */
  readonly repaired: (world: FaultWorld) => Promise<boolean> | boolean;
  /** Puts right what is not the mesh's to repair, when service has returned without it. */
  readonly mend?: (world: FaultWorld) => Promise<void> | void;
  /** What the row does not show, said in the table. */
  readonly note?: string;
}
