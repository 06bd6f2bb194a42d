/**
 * One list of cases over every redirection mode and both address families, with real agents and data
 * planes. Before each case the kernel is asked which redirection is in force in the pods it is about.
 */
import { eventually } from "../../helpers/eventually.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cases } from "./cases/index.js";
import type { Place } from "./cases/case.js";
import { inForce, removeRedirection } from "./lab/kernel.js";
import type { Lab } from "./lab/lab.js";
import { modes } from "./lab/modes.js";
import { placeOf, startWorld } from "./lab/world.js";

describe.each(modes)("redirection by $mode", ({ mode, prefix, flags, families }) => {
  let lab: Lab;
  beforeAll(async () => {
    lab = await startWorld(prefix, flags);
  });
  afterAll(() => lab.down());

  describe.each(families)("over IPv%i", (family) => {
    let place: Place;
    beforeAll(() => {
      place = placeOf(lab, mode, family);
    });

    test("without its redirection a pod's cases fail, until the agent has put it back", async () => {
      const client = place.pod("client");
      lab.signal("node-n2", "SIGSTOP");
      lab.records.patienceMs = 1_000;
      try {
        await removeRedirection(client);
        expect((await inForce(client)).modes).toEqual([]);
        const proofs = cases.filter(({ provesRedirection }) => provesRedirection);
        expect(proofs.length).toBeGreaterThan(0);
        await Promise.all(proofs.map(({ name, run }) => expect(run(place), name).rejects.toThrow()));
      } finally {
        lab.records.patienceMs = 10_000;
        lab.signal("node-n2", "SIGCONT");
      }
      await eventually("the repair", async () => (await inForce(client)).modes.join() === mode, 30_000);
    });

    test.each(cases)("$name", async ({ captured, run }) => {
      for (const pod of captured) expect((await inForce(place.pod(pod))).modes, pod).toEqual([mode]);
      await run(place);
      for (const pod of captured) expect((await inForce(place.pod(pod))).modes, pod).toEqual([mode]);
    });
  });
});
