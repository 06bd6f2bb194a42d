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
import { bypass } from "./waypoint/bypass.js";
import { fault, methods } from "./waypoint/requests.js";
import { byHeader, canary, retry } from "./waypoint/routing.js";
import { token } from "./waypoint/token.js";
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
  canary,
  byHeader,
  retry,
  methods,
  token,
  fault,
  bypass,
  rotation,
  deciders,
  dataPlane,
  accounting,
];
