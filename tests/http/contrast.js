// Texts whose contrast with their ground is below 4.5 (WCAG 2.2, 1.4.3), as a list of strings.
(() => {
    const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
    const pen = canvas.getContext("2d", {willReadFrequently: true});
    const linear = share => share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    const light = colour => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        const [red, green, blue] = [...pen.getImageData(0, 0, 1, 1).data].map(byte => linear(byte / 255));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const ground = node => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (colour !== "rgba(0, 0, 0, 0)") return colour;
        }
    };
    const faint = [];
    for (const node of document.querySelectorAll("body *")) {
        const hasText = [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
        if (!hasText || !node.offsetWidth || node.disabled) continue;
        const lights = [light(getComputedStyle(node).color), light(ground(node))].sort((one, other) => other - one);
        const contrast = (lights[0] + 0.05) / (lights[1] + 0.05);
        if (contrast < 4.5) faint.push(`${node.tagName} ${node.id} ${node.className}: ${contrast}`);
    }
    return faint;
})()
