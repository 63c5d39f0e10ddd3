// Tells the frame around this page what of it a reader cannot see whole, or reads with a break within a word.
addEventListener("load", () => {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
    setTimeout(() => {
        const shown = [...document.querySelectorAll("body *")].filter((one) => one.getClientRects().length);
        const width = document.documentElement.clientWidth;
        const beyond = shown.filter((one) => one.getBoundingClientRect().right > width + 0.5);
        const cut = shown.filter((one) => one.matches(".wide") && one.scrollWidth > one.clientWidth);
        const texts = document.createTreeWalker(document.querySelector("body"), NodeFilter.SHOW_TEXT);
        const range = document.createRange(), broken = [];
        for (let text; (text = texts.nextNode()); ) {
            if (text.parentElement.matches("script, style, option")) continue;
            let last;
            [...text.data].reduce((at, sign, number, signs) => {
                range.setStart(text, at);
                range.setEnd(text, at + sign.length);
                const { top, height } = range.getBoundingClientRect();
                const word = number && /[^\s\/._-]/.test(signs[number - 1]) && /\S/.test(sign);
                if (word && height && top > last + height / 2) broken.push(text.data);
                last = top;
                return at + sign.length;
            }, 0);
        }
        const name = (one) => `${one.tagName} ${one.className.baseVal ?? one.className} ${one.textContent}`.slice(0, 90);
        const found = { width, across: document.documentElement.scrollWidth, beyond: beyond.map(name), cut: cut.map(name), broken };
        parent.postMessage(found, "*");
    }, 300);
})
