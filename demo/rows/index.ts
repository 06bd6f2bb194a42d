import { accounting } from "./accounting.js";
import { balance } from "./balance.js";
import { dualStack } from "./dual-stack.js";
import { dataPlane, deciders } from "./faults.js";
import { identity } from "./identity.js";
import { netfilter } from "./netfilter.js";
import { plaintextCallers } from "./mtls.js";
import { liveEdit, refusal } from "./policy.js";
import { rotation } from "./rotation.js";
import type { Row } from "./row.js";
import { source } from "./source.js";
import { wire } from "./wire.js";

/** All rows, in the order in which they are tried. */
export const rows: readonly Row[] = [
  balance,
  netfilter,
  wire,
  source,
  dualStack,
  identity,
  refusal,
  plaintextCallers,
  liveEdit,
  rotation,
  deciders,
  dataPlane,
  accounting,
];
