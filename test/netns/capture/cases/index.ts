import type { Case } from "./case.js";
import { enrolment } from "./enrolment.js";
import { newConnections } from "./new-connections.js";

/** All cases, in the order in which they are tried. */
export const cases: readonly Case[] = [...newConnections, ...enrolment];
