"""Words for the items of a synthetic shop: a title says which category it comes from."""

from __future__ import annotations

CATEGORIES: dict[str, tuple[str, ...]] = {
    "books": ("novel", "atlas", "memoir", "poems", "cookbook", "thriller", "guide", "essays"),
    "coffee": ("espresso", "grinder", "beans", "filter", "kettle", "mug", "roast", "press"),
    "garden": ("trowel", "planter", "seeds", "hose", "rake", "compost", "trellis", "gloves"),
    "games": ("puzzle", "deck", "dice", "board", "quest", "console", "joystick", "chess"),
    "music": ("guitar", "vinyl", "strings", "drum", "keyboard", "tuner", "speaker", "ukulele"),
    "camping": ("tent", "lantern", "stove", "hammock", "backpack", "canteen", "tarp", "compass"),
    "baking": ("whisk", "flour", "oven mitt", "rolling pin", "yeast", "tin", "sieve", "icing"),
    "cycling": ("helmet", "pedal", "saddle", "pump", "chain", "jersey", "bell", "tire"),
    "pets": ("leash", "kibble", "scratcher", "aquarium", "collar", "treats", "carrier", "bowl"),
    "office": ("stapler", "notebook", "lamp", "planner", "pen", "binder", "desk", "chair"),
    "photo": ("lens", "tripod", "camera", "flash", "film", "album", "strap", "frame"),
    "running": ("sneakers", "shorts", "watch", "socks", "visor", "gel", "belt", "insoles"),
    "sewing": ("thread", "needle", "fabric", "bobbin", "pattern", "thimble", "buttons", "zipper"),
    "skincare": ("serum", "lotion", "cleanser", "sunscreen", "balm", "toner", "mask", "scrub"),
    "tools": ("hammer", "drill", "wrench", "saw", "pliers", "level", "chisel", "clamp"),
    "toys": ("blocks", "robot", "doll", "kite", "train", "marbles", "plush", "yo-yo"),
    "travel": ("suitcase", "adapter", "pillow", "map", "wallet", "tag", "duffel", "umbrella"),
    "winter": ("parka", "scarf", "skis", "sled", "boots", "mittens", "goggles", "beanie"),
    "yoga": ("mat", "block", "bolster", "leggings", "towel", "cushion", "roller", "bands"),
    "audio": ("headphones", "earbuds", "turntable", "amplifier", "microphone", "radio", "dac",
              "soundbar"),
}  # fmt: skip

ADJECTIVES = (
    "amber", "bold", "bright", "calm", "classic", "compact", "cozy", "crisp", "daily", "deluxe",
    "deep", "easy", "fine", "fresh", "gentle", "golden", "grand", "handmade", "light", "lucky",
    "mellow", "mini", "modern", "northern", "pocket", "polished", "quiet", "rapid", "rustic",
    "sharp", "silver", "simple", "smart", "soft", "solid", "steady", "sunny", "swift", "urban",
    "vivid", "warm", "wild",
)  # fmt: skip

BRAND_STARTS = ("Alto", "Bren", "Corva", "Delmo", "Ester", "Fjor", "Gala", "Harb", "Ivora", "Juno",
                "Kelda", "Lumo", "Marl", "Norva", "Orsa", "Pell")  # fmt: skip
BRAND_ENDS = ("co", "dale", "field", "ly", "mark", "nest", "ora", "wick")


def category_names(num_categories: int) -> list[str]:
    """Return distinct category names; past the written ones a number is added.

    >>> category_names(22)[-2:]
    ['books 2', 'coffee 2']
    """
    names = list(CATEGORIES)
    rounds = [divmod(index, len(names)) for index in range(num_categories)]
    return [names[name] if turn == 0 else f"{names[name]} {turn + 1}" for turn, name in rounds]


def category_nouns(num_categories: int) -> list[list[str]]:
    """Return the nouns of each category, in the order of `category_names`."""
    nouns = list(CATEGORIES.values())
    return [list(nouns[index % len(nouns)]) for index in range(num_categories)]


def brand_names(num_brands: int) -> list[str]:
    """Return distinct brand names; past the 128 written ones a number is added."""
    names = [start + end for end in BRAND_ENDS for start in BRAND_STARTS]
    rounds = [divmod(index, len(names)) for index in range(num_brands)]
    return [names[name] if turn == 0 else f"{names[name]} {turn + 1}" for turn, name in rounds]
