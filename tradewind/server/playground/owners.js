// Who owns a block, and in which colour. The same request has the same colour in the map and in the table.

export const FREE = -1;
export const CACHED = -2;
export const SHARED = -3;

const GOLDEN_ANGLE = 137.508;

/** The colour of an owner for the scheme in use; the three that are no request come from the style sheet. */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  const isDark = colourScheme() === "dark";
  const probe = document.createElement("canvas").getContext("2d");
  const named = {};
  for (const [owner, name] of [[FREE, "--free"], [CACHED, "--cached"], [SHARED, "--shared"]]) {
    named[owner] = resolve(style.getPropertyValue(name), isDark, probe);
  }
  return (owner) => named[owner] ?? `oklch(${isDark ? 0.74 : 0.62} ${owner % 2 ? 0.13 : 0.1} ${(205 + owner * GOLDEN_ANGLE) % 360})`;
}

/** "light" or "dark": what is shown now. */
export function colourScheme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

/** A canvas does not know light-dark(): take the arm that counts. */
function resolve(value, isDark, probe) {
  const arms = value.match(/light-dark\((oklch\([^)]*\)),\s*(oklch\([^)]*\))\)/);
  probe.fillStyle = arms ? arms[isDark ? 2 : 1] : value;
  return probe.fillStyle;
}
