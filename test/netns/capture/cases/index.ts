import type { Case } from "./case.js";
import { enrolment } from "./enrolment.js";
import { hostProbes } from "./host-probes.js";
import { newConnections } from "./new-connections.js";
import { optOuts } from "./opt-outs.js";

/** All cases, in the order in which they are tried. */
export const cases: readonly Case[] = [...newConnections, ...enrolment, ...optOuts, ...hostProbes];
